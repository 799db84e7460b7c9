"""Networks of torchvision and timm by name, with the same interface as our own networks.

``timm/<name>`` needs the extra ``cbam_lightning[timm]``. The networks start from fresh initial values and
keep the state-dict keys of their library.
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
from cbam_lightning.models.insertion.insert import insert_named_attention
from cbam_lightning.models.torchvision_network import TorchvisionNetwork, torchvision_names, unknown_network
from cbam_lightning.weights.header import one_line

# Arguments of timm.create_model that load weights or return something else than a classification network.
_TIMM_LOADING = frozenset((
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only",
))  # fmt: skip
# Modules of timm.models whose networks are fully convolutional: their feature maps are (N, C, H, W).
_TIMM_FAMILIES = (
    "byobnet", "convnext", "cspnet", "densenet", "dla", "dpn", "efficientnet", "fasternet", "ghostnet",
    "hardcorenas", "hgnet", "hrnet", "inception_next", "inception_resnet_v2", "inception_v3",
    "inception_v4", "mobilenetv3", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost", "repvit",
    "res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "starnet",
    "tresnet", "vgg", "vovnet", "xception", "xception_aligned",
)  # fmt: skip


def list_external(pattern: str = "*") -> list[str]:
    """Return the names of ``build_external`` that match a pattern, sorted.

    Args:
        pattern: Shell wildcards, for example ``timm/resnet*``. Without a library, names of timm are included
            if it is installed.

    Raises:
        UsageError: The pattern is for timm, which is not installed.
    """
    names = [f"torchvision/{name}" for name in torchvision_names()]
    is_for_timm, is_for_torchvision = pattern.startswith("timm/"), pattern.startswith("torchvision/")
    if is_for_timm or (not is_for_torchvision and importlib.util.find_spec("timm")):
        names += [f"timm/{name}" for name in _timm_names(import_timm())]
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
    """Build a network of torchvision or timm with fresh initial values and insert attention.

    Args:
        name: ``torchvision/<name>`` or ``timm/<name>``, one of ``list_external()``. Names of timm may include
            the tag of weights.
        attention: One of ``cbam_lightning.attention.list_attention()``.
        attention_options: Arguments of the attention's class besides ``channels``. The gate defaults to
            ``identity``.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.
        where: As for ``insert_attention``.
        options: Further arguments of the library's function.

    Returns:
        A network with ``num_features``, ``num_classes``, ``in_channels``, ``forward_features``,
        ``forward_head``, ``get_classifier`` and ``reset_classifier``.

    Raises:
        UsageError: An unknown name or option, timm is not installed, or the attention cannot be inserted.
    """
    library, _, plain_name = name.partition("/")
    if library == "torchvision":
        network: nn.Module = TorchvisionNetwork(plain_name, num_classes, in_channels, **options)
    elif library == "timm":
        network = _build_timm(plain_name, num_classes, in_channels, options)
    else:
        raise unknown_name(kind="library", given=library, allowed=("torchvision", "timm"))
    return insert_named_attention(network, attention, attention_options or {}, where)


def _build_timm(name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    timm = import_timm()
    check_positive("in_channels", in_channels)
    check_num_classes(num_classes)
    names = _timm_names(timm)
    if name.partition(".")[0] not in names:  # without the tag of weights, as in resnet50.a1_in1k
        raise unknown_network(library="timm", given=name, names=names)
    refused = sorted(_TIMM_LOADING & options.keys())
    if refused:
        raise UsageError(f"timm/{name} does not take {', '.join(refused)}; use `weights` instead.")
    try:
        network: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    except (TypeError, RuntimeError) as error:  # an unknown option, an unknown tag
        raise UsageError(
            f"timm/{name} cannot be built with the options {dict(options)}: {one_line(error)}."
        ) from error
    network.in_channels = in_channels  # type: ignore[assignment]
    return network


def _timm_names(timm: Any) -> list[str]:
    known = set(timm.list_modules())
    return sorted(
        name for family in _TIMM_FAMILIES if family in known for name in timm.list_models(module=family)
    )


def import_timm() -> Any:
    """Import timm, an optional package.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise UsageError(
            "timm is not installed; networks called timm/… need it: pip install 'cbam_lightning[timm]'."
        ) from error
