"""Build a network by its name or as a checkpoint describes it, and load its weights."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.detection.detector_registry import DETECTORS
from cbam_lightning.models.registry import MODELS, USER_NETWORKS, list_models
from cbam_lightning.models.traceless import check_attention, check_strides
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from cbam_lightning.weights import Checkpoint, Header, LoadReport


class BuiltNetwork(NamedTuple):
    """A network, and what it was built from.

    Attributes:
        network: The network.
        names: Names and options of the network and its attention, complete, as ``build`` takes them.
        header: Header of the weights, if any.
        report: Which keys of the weights were loaded, if there are weights.
        new_classes: Why the classifier is new although there are weights, else ``None``.
    """

    network: nn.Module
    names: dict[str, Any]
    header: Header | None = None
    report: LoadReport | None = None
    new_classes: str | None = None


def create_model(
    name: str | None = None,
    *,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    strict_weights: bool = True,
    **options: Any,
) -> nn.Module:
    """Build a network, with fresh initial values or those of a checkpoint.

    Every argument defaults to what the header of ``weights`` says; without weights, to a plain network for
    1000 classes and 3 channels.

    Args:
        name: One of ``list_models()``, ``torchvision/<name>`` or ``timm/<name>``, or the import path of your
            own class, called as described in ``register_model``.
        attention: One of ``cbam_lightning.attention.list_attention()`` or the import path of a class. It goes
            where its paper puts it; in networks of torchvision, timm and your own, where
            ``insert_attention`` does.
        attention_options: Arguments of the attention's class besides ``channels``.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.
        weights: A ``.safetensors`` or ``.ckpt`` file, a name of ``cbam_lightning.weights.list_weights()``, or
            torchvision's name of its ImageNet weights (``IMAGENET1K_V1``, ``DEFAULT``). If they have another
            number of classes, the classifier is reinitialised, with a warning. Weights of a plain network
            also fit one with attention, which then keeps its initial values.
        strict_weights: Whether everything but the classifier has to fit the weights.
        options: Further arguments of the network's class, which override those that belong to ``name``.
            Networks of torchvision, timm and your own also take ``where``, for ``insert_attention``.

    Returns:
        A network with ``num_features``, ``num_classes``, ``in_channels``, ``forward_features``,
        ``forward_head``, ``get_classifier`` and ``reset_classifier``.

    Raises:
        UsageError: An unknown name or option, a value out of its range, or weights of another network.
    """
    import_class_path(name, "the network")
    import_class_path(attention, "attention")
    built = build_network(
        name,
        attention,
        attention_options,
        options,
        num_classes=num_classes,
        in_channels=in_channels,
        weights=weights,
        strict_weights=strict_weights,
    )
    if built.new_classes:
        warnings.warn(f"{built.new_classes}: the classifier is reinitialised.", stacklevel=2)
    return built.network


def rebuild(checkpoint: Checkpoint, source: str = "the checkpoint") -> nn.Module:
    """Build the network that a checkpoint's header describes, with the checkpoint's values.

    Args:
        checkpoint: As from ``open_checkpoint``.
        source: Name of the checkpoint in error messages.

    Raises:
        UsageError: The header names an unknown network, or the values do not fit it.
    """
    return build_network(weights=checkpoint, source=source).network


def build_network(
    network: str | None = None,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    class_names: Sequence[str] | None = None,
    weights: str | Path | Checkpoint | None = None,
    strict_weights: bool = True,
    source: str | None = None,
) -> BuiltNetwork:
    """Open the weights, fill in the names that were left out, build the network and load the weights.

    Args:
        network: As ``name`` of ``create_model``, but nothing is imported.
        attention: As for ``create_model``, but nothing is imported.
        attention_options: As for ``create_model``.
        network_options: Further arguments of the network's class.
        num_classes: As for ``create_model``.
        in_channels: As for ``create_model``.
        class_names: Names in the order of the logits. The classifier is new if the weights have other names.
        weights: As for ``create_model``, or a checkpoint that is already open.
        strict_weights: As for ``create_model``.
        source: Name of the weights in error messages. Default: ``weights``.

    Raises:
        UsageError: As for ``create_model``.
    """
    if weights is None:
        names = resolve_names(None, network, attention, attention_options, network_options)
        num_classes = 1000 if num_classes is None else num_classes
        in_channels = 3 if in_channels is None else in_channels
        return BuiltNetwork(build(**names, num_classes=num_classes, in_channels=in_channels), names)

    from cbam_lightning.models.pretrained import open_checkpoint
    from cbam_lightning.models.size_limit import no_larger_than
    from cbam_lightning.weights import Checkpoint, load_into
    from cbam_lightning.weights.compatibility import class_mismatch

    checkpoint = weights if isinstance(weights, Checkpoint) else open_checkpoint(weights, network)
    source = str(weights) if source is None else source
    header = checkpoint.header
    names = resolve_names(header, network, attention, attention_options, network_options)
    limit = no_larger_than(checkpoint.state_dict, source, num_classes, names["network"] != header.network)
    num_classes = header.num_classes if num_classes is None else num_classes
    in_channels = header.in_channels if in_channels is None else in_channels
    with limit:
        module = build(**names, num_classes=num_classes, in_channels=in_channels)
    new_classes = class_mismatch(header, num_classes, class_names, source)
    if strict_weights:
        check_attention(checkpoint, names["attention"], source)
    report = load_into(
        module,
        checkpoint.state_dict,
        load_head=new_classes is None,
        new_attention=header.attention == "none",
        strict=strict_weights,
        source=source,
    )
    return BuiltNetwork(module, names, header, report, new_classes)


def resolve_names(
    header: Header | None,
    network: str | None,
    attention: str | None,
    attention_options: Mapping[str, Any] | None,
    network_options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fill in the names that were left out, from the header of a checkpoint if there is one.

    Returns:
        The four names and options, as ``build`` takes them.

    Raises:
        UsageError: There is neither a network nor a header, or the strides differ from those with which the
            header's weights were trained.
    """
    for name, given in (("attention_options", attention_options), ("network_options", network_options)):
        if not isinstance(given or {}, Mapping):
            raise UsageError(f"{name} is {given!r}; give names and values, such as {{'reduction': 8}}.")
    attention_options, network_options = dict(attention_options or {}), dict(network_options or {})
    if header is None and network is None:
        raise UsageError("no network and no weights were given; choose a network of `cbam-lightning models`.")
    if header and network in (None, header.network):
        check_strides(header, network_options)
        network, network_options = header.network, {**header.network_options, **network_options}
    if header and attention in (None, header.attention):
        attention, attention_options = header.attention, {**header.attention_options, **attention_options}
    return {
        "network": network,
        "attention": "none" if attention is None else attention,
        "attention_options": attention_options,
        "network_options": network_options,
    }


def build(
    network: str,
    attention: str,
    attention_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Build a network with fresh initial values; the arguments are those of ``create_model``.

    Raises:
        UsageError: An unknown name or option, or a value out of its range.
    """
    from cbam_lightning.models.classifier_network import check_num_classes

    arguments: dict[str, Any] = {
        "attention": attention,
        "attention_options": dict(attention_options),
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    check_num_classes(num_classes)
    check_positive("in_channels", in_channels)
    twice = sorted(arguments.keys() & network_options.keys())
    if twice:
        names = ", ".join(map(repr, twice))
        raise UsageError(f"{names} cannot be among the options of {network}; pass it as a separate argument.")
    if "/" in network:
        from cbam_lightning.models.external import build_external

        return build_external(network, **arguments, **network_options)
    builder = USER_NETWORKS.get(network) or _find_network_class(network)
    if builder is not None:
        from cbam_lightning.models.user_networks import build_user_network

        return build_user_network(network, builder, network_options=network_options, **arguments)
    return _build_own(network, network_options, arguments)


def _find_network_class(path: str) -> type | None:
    """Return the class at an import path if its module was imported before."""
    network_class = find_class(path)
    if network_class is not None:
        from torch import nn

        if not issubclass(network_class, nn.Module):
            raise UsageError(f"the network {path!r} is not a torch.nn.Module; give the import path of one.")
    return network_class


def _build_own(network: str, network_options: Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
    if network in DETECTORS:
        raise UsageError(f"{network} is a detector; build it with models.detection.create_detector.")
    if network not in MODELS:
        error = unknown_name(kind="model", given=network, allowed=list_models())
        module = network.rpartition(".")[0] if is_class_path(network) else "MODULE"
        raise UsageError(f"{error} Or torchvision/NAME, timm/NAME, or your own class (--imports {module}).")
    module_name, class_name = MODELS[network].family.split(".")
    network_class = getattr(importlib.import_module(f"cbam_lightning.models.{module_name}"), class_name)
    allowed = inspect.signature(network_class).parameters.keys() - arguments.keys()
    for option in network_options:
        if option not in allowed:
            raise unknown_name(kind=f"{network} option", given=option, allowed=allowed)
    built: nn.Module = network_class(**{**MODELS[network].options, **network_options}, **arguments)
    return built
