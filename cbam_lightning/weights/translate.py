"""From the key names of others to ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.layouts import LAYOUTS, Layout
from cbam_lightning.weights.loading import strip_wrappers

# The BatchNorm that is the identity in evaluation mode, with the eps of the authors' MODELS/cbam.py.
_IDENTITY = {"weight": math.sqrt(1 + 1e-5), "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_DETECTOR = re.compile(r"^(rpn|roi_heads|backbone\.(body|fpn)|extras|loc|conf|anchor_generator)\.")


def identify(state_dict: Mapping[str, Tensor]) -> str:
    """Find out from its keys who wrote a state dict.

    Args:
        state_dict: Of a network or of a lone attention module, wrappers' prefixes allowed.

    Returns:
        ``authors``, ``luuuyi``, ``timm``, ``cbam_lightning``, or ``torchvision`` for a plain ResNet.

    Raises:
        UsageError: The keys belong to none of these, to two of them, or to an object detector.
    """
    keys = list(strip_wrappers(state_dict))
    found = [name for name, layout in LAYOUTS.items() if any(re.search(layout.sign, key) for key in keys)]
    with_attention = [name for name in found if name != "torchvision"]
    if len(with_attention) > 1:
        message = (
            f"the keys are those of {' and of '.join(LAYOUTS[name].origin for name in with_attention)} at "
            "once; a file has to be in one layout."
        )
        raise UsageError(message)
    detector = next((key for key in keys if _DETECTOR.match(key)), None)
    if detector or not found:
        shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
        reason = f"these are the keys of an object detector ({detector})" if detector else f"unknown: {shown}"
        message = (
            f"the layout of the keys cannot be read; {reason}. Known are ResNets and attention modules of "
            f"{', '.join(layout.origin for layout in LAYOUTS.values())}. Give another network of torchvision "
            "or timm by its name, torchvision/NAME or timm/NAME."
        )
        raise UsageError(message)
    return found[0]


def translate(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Rename the keys of others, and turn their values into ours.

    What our modules have and theirs lack is added so that the logits in evaluation mode stay the same: biases
    of 0, and for luuuyi's modules, which have no BatchNorm in
    spatial attention, one that is the identity with running statistics (mean 0, variance 1, weight
    sqrt(1 + eps), bias 0). In training mode that BatchNorm normalises with the batch's own statistics, so a
    network of luuuyi's that is trained further starts from another function than it had.

    Args:
        state_dict: Of a network or of a lone attention module, wrappers' prefixes allowed.

    Returns:
        The layout's name, as from ``identify``, and the state dict under our names.

    Raises:
        UsageError: The layout is unknown, or values of it do not fit together.
    """
    name = identify(state_dict)
    return name, _apply(name, state_dict)


def from_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' code (https://github.com/Jongchan/attention-module) to ours.

    Args:
        state_dict: Of a network, with CBAM or BAM or without, or of a lone ``CBAM`` or ``BAM`` module;
            DataParallel's ``module.`` prefix allowed.

    Returns:
        The same tensors under our names.

    Raises:
        UsageError: The keys are not the authors'.
    """
    name = identify(state_dict)
    if name not in ("authors", "torchvision"):
        message = (
            f"the keys are those of {LAYOUTS[name].origin}, not of the authors; "
            "cbam_lightning.weights.translate reads every layout."
        )
        raise UsageError(message)
    return _apply("authors", state_dict)


def complete(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring an old state dict up to date: the names in a DenseNet, and the counters of BatchNorms.

    Files from before torch 0.4.1 lack the number of batches; it becomes 0, which changes nothing, since only
    a BatchNorm with ``momentum=None`` reads it. Torchvision's stored DenseNets have ``norm.1`` for ``norm1``:
    https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py.
    """
    renamed = {re.sub(_OLD_DENSENET, r"\1", key): value for key, value in state_dict.items()}
    completed = {}
    for key, value in renamed.items():
        completed[key] = value
        counter = key.removesuffix("running_var") + "num_batches_tracked"
        if key.endswith("running_var") and counter not in renamed:
            completed[counter] = torch.tensor(0)
    return completed


def _apply(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and change as the table says, and add what is missing."""
    layout = LAYOUTS[name]
    translated: dict[str, Tensor] = {}
    for key, value in strip_wrappers(state_dict).items():
        new = key
        for pattern, replacement in layout.renames:
            new = re.sub(pattern, replacement, new)
        if new in translated:
            message = f"two keys are both our {new}, one of them {key}; the file mixes two versions."
            raise UsageError(message)
        translated[new] = value
        for pattern, change in layout.changes:
            if value.ndim == 4 and re.search(pattern, new):
                translated[new] = change(value)
    return complete(translated | _added(layout, translated))


def _added(layout: Layout, translated: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters that our modules have and those of the layout do without."""
    added = {}
    biased = any(re.search(r"(^|\.)mlp\.[02]\.bias$", key) for key in translated)
    for key, value in translated.items():
        if "bias" in layout.lacks and not biased and re.search(r"(^|\.)mlp\.[02]\.weight$", key):
            added[key.removesuffix("weight") + "bias"] = value.new_zeros(value.shape[0])
        if "bn" in layout.lacks and re.search(r"(^|\.)spatial\.conv\.weight$", key):
            for name, number in _IDENTITY.items():
                added[key.removesuffix("conv.weight") + f"bn.{name}"] = value.new_full((1,), number)
    return added
