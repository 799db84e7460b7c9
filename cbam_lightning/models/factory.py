"""Build a network by its name, or as a checkpoint says."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.detection.detector_registry import DETECTORS
from cbam_lightning.models.registry import MODELS, USER_NETWORKS, list_models
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from cbam_lightning.weights import Checkpoint, Header


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

    What is left out is what the header of ``weights`` says; without weights, the plain network for 1000
    classes and 3 channels.

    Args:
        name: One of ``list_models()``, ``torchvision/<name>`` or ``timm/<name>``, or the import path of a
            class of yours, called as ``register_model`` says.
        attention: One of ``cbam_lightning.attention.list_attention()`` or the import path of a class, put
            where its paper puts it, or into networks of torchvision, timm and the user as
            ``insert_attention`` does.
        attention_options: What the attention's class accepts besides ``channels``.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.
        weights: A ``.safetensors`` or ``.ckpt`` file, a name of ``cbam_lightning.weights.list_weights()``, or
            torchvision's name of its ImageNet weights (``IMAGENET1K_V1``, ``DEFAULT``). If they have another
            number of classes, the classifier starts anew, with a warning. Weights of a plain network fit one
            with attention, too, which then keeps its initial values.
        strict_weights: Whether everything but the classifier has to fit the weights.
        options: Other arguments of the network's class, in place of those that belong to ``name``. Networks
            of torchvision, timm and the user take ``where``, too, for ``insert_attention``.

    Returns:
        A network with ``num_features``, ``num_classes``, ``in_channels``, ``forward_features``,
        ``forward_head``, ``get_classifier`` and ``reset_classifier``.

    Raises:
        UsageError: An unknown name or option, a value out of its range, or weights of another network.
    """
    import_class_path(name, "the network")
    import_class_path(attention, "attention")
    if weights is None:
        names = resolve_names(None, name, attention, attention_options, options)
        return build(**names, num_classes=_or(num_classes, 1000), in_channels=_or(in_channels, 3))

    from cbam_lightning.models.pretrained import open_checkpoint

    checkpoint = open_checkpoint(weights, name)
    header = checkpoint.header
    names = resolve_names(header, name, attention, attention_options, options)
    classes = _or(num_classes, header.num_classes)
    if classes != header.num_classes:
        message = f"{weights} has {header.num_classes} classes, not {classes}: the classifier starts anew."
        warnings.warn(message, stacklevel=2)
    network = build(**names, num_classes=classes, in_channels=_or(in_channels, header.in_channels))
    return _load(network, checkpoint, strict_weights, str(weights))


def rebuild(checkpoint: Checkpoint, source: str = "the checkpoint") -> nn.Module:
    """Build the network that a checkpoint's header describes, with the checkpoint's values.

    Args:
        checkpoint: As from ``open_checkpoint``.
        source: What to call it in an error.

    Raises:
        UsageError: The header names no network that is known here, or the values do not fit it.
    """
    header = checkpoint.header
    names = resolve_names(header, None, None, None, None)
    network = build(**names, num_classes=header.num_classes, in_channels=header.in_channels)
    return _load(network, checkpoint, strict=True, source=source)


def _load(network: nn.Module, checkpoint: Checkpoint, strict: bool, source: str) -> nn.Module:
    from cbam_lightning.weights import load_into

    new_attention = checkpoint.header.attention == "none"
    load_into(network, checkpoint.state_dict, new_attention=new_attention, strict=strict, source=source)
    return network


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
        UsageError: Neither a network nor a header is given, or strides are asked for that the weights of the
            header were not trained with.
    """
    if network is None and header is None:
        message = "neither a network nor weights are given; name one of `cbam-lightning models`."
        raise UsageError(message)
    same_network = header is not None and network in (None, header.network)
    same_attention = header is not None and attention in (None, header.attention)
    if header is not None and same_network:
        _check_strides(header.network_options, network_options or {})
    return {
        "network": network or (header and header.network),
        "attention": attention or (header.attention if header else "none"),
        "attention_options": {
            **(header.attention_options if header and same_attention else {}),
            **(attention_options or {}),
        },
        "network_options": {
            **(header.network_options if header and same_network else {}),
            **(network_options or {}),
        },
    }


def build(
    network: str,
    attention: str,
    attention_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Build a network with fresh initial values; the arguments are those of ``create_model``, all given.

    Raises:
        UsageError: An unknown name or option, or a value out of its range.
    """
    given: dict[str, Any] = {
        "attention": attention,
        "attention_options": dict(attention_options),
        "num_classes": num_classes,
        "in_channels": in_channels,
    }
    twice = sorted(given.keys() & network_options.keys())
    if twice:
        names = ", ".join(map(repr, twice))
        message = f"{names} cannot be among the options of {network}; give each by itself."
        raise UsageError(message)
    if "/" in network:
        from cbam_lightning.models.external import build_external

        return build_external(network, **given, **network_options)
    builder = USER_NETWORKS.get(network) or _find_network(network)
    if builder is not None:
        from cbam_lightning.models.user_networks import build_user_network

        return build_user_network(network, builder, network_options=network_options, **given)
    return _build_own(network, network_options, given)


def _find_network(path: str) -> type | None:
    """Return the class of an import path, if it was imported before."""
    found = find_class(path)
    if found is not None:
        from torch import nn

        if not issubclass(found, nn.Module):
            message = f"the network {path!r} is no torch.nn.Module; give the import path of one."
            raise UsageError(message)
    return found


def _build_own(network: str, network_options: Mapping[str, Any], given: Mapping[str, Any]) -> nn.Module:
    if network in DETECTORS:
        message = f"{network} is a detector: `cbam_lightning.models.detection.create_detector` builds it."
        raise UsageError(message)
    if network not in MODELS:
        error = unknown_name(kind="model", given=network, allowed=list_models())
        module = network.rpartition(".")[0] if is_class_path(network) else "MODULE"
        message = f"{error} Or torchvision/NAME, timm/NAME, or a class of yours (--imports {module})."
        raise UsageError(message)
    module_name, class_name = MODELS[network].family.split(".")
    network_class = getattr(importlib.import_module(f"cbam_lightning.models.{module_name}"), class_name)
    allowed = inspect.signature(network_class).parameters.keys() - given.keys()
    for option in network_options:
        if option not in allowed:
            raise unknown_name(kind=f"{network} option", given=option, allowed=allowed)
    built: nn.Module = network_class(**{**MODELS[network].options, **network_options}, **given)
    return built


def _check_strides(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    # strides have no weights, so others would fit to the last key and give other logits
    trained = theirs.get("stride_in", "3x3")
    if ours.get("stride_in", trained) != trained:
        message = (
            f"the weights were trained with stride_in {trained!r}, not {ours['stride_in']!r}; "
            "leave stride_in out, or start without weights."
        )
        raise UsageError(message)


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
