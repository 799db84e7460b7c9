"""Networks of torchvision and timm by name, with the surface of this package's own.

``torchvision/<name>`` needs nothing more, ``timm/<name>`` the extra ``cbam_lightning[timm]``. Both start from
fresh initial values and have the state-dict keys of the library that they come from.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.classifier_network import check_num_classes
from cbam_lightning.models.insertion import insert_attention
from cbam_lightning.models.torchvision_network import TorchvisionNetwork, torchvision_names, unknown_network
from cbam_lightning.user_code.class_paths import importing_nothing

__all__ = ["TorchvisionNetwork", "build_external", "is_external", "list_external"]

_INSERTION_ARGUMENTS = ("where", "example")
# Arguments of timm.create_model that load weights or return something other than a classification network.
_TIMM_LOADING = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "features_only",
    }
)
# Modules of timm.models whose networks are convolutional throughout: their feature maps are (N, C, H, W).
_TIMM_FAMILIES = (
    "byobnet",
    "convnext",
    "cspnet",
    "densenet",
    "dla",
    "dpn",
    "efficientnet",
    "fasternet",
    "ghostnet",
    "hardcorenas",
    "hgnet",
    "hrnet",
    "inception_next",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "mobilenetv3",
    "nasnet",
    "nfnet",
    "pnasnet",
    "rdnet",
    "regnet",
    "repghost",
    "repvit",
    "res2net",
    "resnest",
    "resnet",
    "resnetv2",
    "rexnet",
    "selecsls",
    "senet",
    "sknet",
    "starnet",
    "tresnet",
    "vgg",
    "vovnet",
    "xception",
    "xception_aligned",
)


def is_external(name: str) -> bool:
    """Tell whether this is a network of a library, ``torchvision/…`` or ``timm/…``, and not one of ours."""
    return name.startswith(("torchvision/", "timm/"))


def list_external(pattern: str = "*") -> list[str]:
    """Return the names that ``build_external`` knows and ``pattern`` matches, sorted.

    Those of timm are among them where it is installed.

    Args:
        pattern: Shell wildcards, for example ``timm/resnet*``.

    Raises:
        UsageError: The pattern asks for timm, which is not installed.
    """
    names = [f"torchvision/{name}" for name in torchvision_names()]
    asked, unasked = pattern.startswith("timm/"), pattern.startswith("torchvision/")
    if asked or (not unasked and importlib.util.find_spec("timm")):
        names += [f"timm/{name}" for name in _timm_names(_import_timm())]
    return sorted(name for name in names if fnmatchcase(name, pattern))


def build_external(
    name: str,
    attention: str = "none",
    attention_options: Mapping[str, Any] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    where: str | Sequence[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network of torchvision or timm with fresh initial values, and put attention into it.

    Args:
        name: ``torchvision/<name>`` or ``timm/<name>``, one of ``list_external()``; those of timm may have
            the tag of its weights.
        attention: One of ``cbam_lightning.attention.list_attention()``.
        attention_options: What the attention's class accepts besides ``channels``; the gate is ``identity``
            unless given.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.
        where: As for ``insert_attention``.
        options: Further arguments of the library's function.

    Returns:
        A network with ``num_features``, ``num_classes``, ``in_channels``, ``forward_features``,
        ``forward_head``, ``get_classifier`` and ``reset_classifier``.

    Raises:
        UsageError: An unknown name or option, timm is not installed, or the attention cannot be put in.
    """
    attention_options = attention_options or {}
    for option in _INSERTION_ARGUMENTS:
        if option in attention_options:
            message = (
                f"{option!r} is not an option of an attention module; give it as an option of the network."
            )
            raise UsageError(message)
    library, _, plain_name = name.partition("/")
    if library == "torchvision":
        network: nn.Module = TorchvisionNetwork(plain_name, num_classes, in_channels, **options)
    elif library == "timm":
        network = _build_timm(plain_name, num_classes, in_channels, options)
    else:
        raise unknown_name(kind="library", given=library, allowed=("torchvision", "timm"))
    with importing_nothing():  # the names may be those of a checkpoint
        return insert_attention(network, attention, where=where, **attention_options)


def _build_timm(name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    timm = _import_timm()
    check_positive("in_channels", in_channels)
    check_num_classes(num_classes)
    names = _timm_names(timm)
    if (
        name.partition(".")[0] not in names
    ):  # a tag, as in resnet50.a1_in1k, says only which weights are meant
        raise unknown_network(library="timm", given=name, names=names)
    refused = sorted(_TIMM_LOADING & options.keys())
    if refused:
        message = f"timm/{name} does not take {', '.join(refused)}: it starts anew; give `weights` instead."
        raise UsageError(message)
    try:
        network: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except (TypeError, RuntimeError) as error:  # an unknown option, an unknown tag
        message = f"timm/{name} cannot be made with options {dict(options)}: {error}"
        raise UsageError(message) from error
    network.in_channels = in_channels  # type: ignore[assignment]
    return network


def _timm_names(timm: Any) -> list[str]:
    known = set(timm.list_modules())
    return sorted(
        name for family in _TIMM_FAMILIES if family in known for name in timm.list_models(module=family)
    )


def _import_timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        message = "timm is not installed; networks called timm/… need it: pip install 'cbam_lightning[timm]'"
        raise UsageError(message) from error
