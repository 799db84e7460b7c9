"""Translate state dicts of other code to our key names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.layouts import LAYOUTS, Layout
from cbam_lightning.weights.loading import strip_wrappers

# A BatchNorm that is the identity in evaluation mode, with the eps of the authors' MODELS/cbam.py.
_IDENTITY = {"weight": math.sqrt(1 + 1e-5), "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_DETECTOR = re.compile(r"^(rpn|roi_heads|backbone\.(body|fpn)|extras|loc|conf|anchor_generator)\.")


def identify(state_dict: Mapping[str, Tensor]) -> str:
    """Identify from its keys which code wrote a state dict.

    Args:
        state_dict: Values of a network or of a single attention module; prefixes of wrappers are allowed.

    Returns:
        ``authors``, ``luuuyi``, ``timm``, ``cbam_lightning``, or ``torchvision`` for a plain ResNet.

    Raises:
        UsageError: The keys belong to none of these, to two of them, or to an object detector.
    """
    keys = list(strip_wrappers(state_dict))
    names = [name for name, layout in LAYOUTS.items() if _is_in(layout, keys)]
    with_attention = [name for name in names if name != "torchvision"]
    if len(with_attention) > 1:
        raise UsageError(
            f"the keys mix layouts: of {' and of '.join(LAYOUTS[name].origin for name in with_attention)}; "
            "a file has to be in one layout."
        )
    detector = next((key for key in keys if _DETECTOR.match(key)), None)
    if detector or not names:
        shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
        reason = f"these are the keys of an object detector ({detector})" if detector else f"unknown: {shown}"
        raise UsageError(
            f"the layout of the keys is not supported; {reason}. Supported are ResNets and attention modules "
            f"of {', '.join(layout.origin for layout in LAYOUTS.values())}. Name other networks of "
            "torchvision or timm as torchvision/NAME or timm/NAME."
        )
    return names[0]


def translate(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Translate the keys and values of other code to ours.

    Values that only our modules have are added such that the logits in evaluation mode stay the same: biases
    of 0, and for luuuyi's modules, whose spatial attention has no BatchNorm, one that is the identity with
    running statistics (mean 0, variance 1, weight sqrt(1 + eps), bias 0). In training mode this BatchNorm
    uses the statistics of the batch, so training of such a network resumes from a different function.

    Keys and shapes do not show activations, gates, pools and paddings: they are taken to be the defaults of
    the code that the layout is of. So timm's ``ceca``, which has the keys of ``eca`` and circular padding,
    is not told from it. See ``implied_options`` for what only the original keys show.

    Args:
        state_dict: Values of a network or of a single attention module; prefixes of wrappers are allowed.

    Returns:
        The layout's name, as from ``identify``, and the state dict with our keys.

    Raises:
        UsageError: The layout is unknown, its keys are inconsistent, or belong to attention that is not here.
    """
    name = identify(state_dict)
    for pattern, reason in LAYOUTS[name].refused:
        if key := next((key for key, shown in _with_shapes(state_dict) if re.search(pattern, shown)), None):
            raise UsageError(
                f"{key} belongs to attention of {LAYOUTS[name].origin} that is not here: {reason}. Name a "
                "network of timm as timm/NAME to keep it."
            )
    return name, _apply(name, state_dict)


def implied_options(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of our attention that only the keys of other code show.

    Args:
        state_dict: As for ``translate``.

    Returns:
        Those that differ from our defaults, such as ``fusion`` of ``gc`` for timm's.

    Raises:
        UsageError: As in ``identify``.
    """
    implied = LAYOUTS[identify(state_dict)].implied
    options: dict[str, Any] = {}
    for pattern, implies in implied:
        if any(re.search(pattern, shown) for _, shown in _with_shapes(state_dict)):
            options |= implies
    return options


def from_authors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' code (https://github.com/Jongchan/attention-module) to ours.

    Args:
        state_dict: Values of a network with CBAM, BAM or no attention, or of a single ``CBAM`` or ``BAM``
            module; DataParallel's prefix ``module.`` is allowed.

    Returns:
        The same tensors with our keys.

    Raises:
        UsageError: The keys are not the authors'.
    """
    name = identify(state_dict)
    if name not in ("authors", "torchvision"):
        raise UsageError(
            f"the keys are those of {LAYOUTS[name].origin}, not of the authors; "
            "cbam_lightning.weights.translate supports every layout."
        )
    return _apply("authors", state_dict)


def complete(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Update an old state dict: the names in a DenseNet, and the counters of BatchNorms.

    Files from before torch 0.4.1 lack the number of batches. It becomes 0, which has no effect, since only a
    BatchNorm with ``momentum=None`` reads it. Torchvision's DenseNet files have ``norm.1`` for ``norm1``:
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


def _is_in(layout: Layout, keys: list[str]) -> bool:
    """Return whether these keys are in a layout."""
    alone = bool(keys) and all(re.fullmatch(layout.alone, key) for key in keys)
    return alone or any(re.search(layout.sign, key) for key in keys)


def _with_shapes(state_dict: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return every key, without and with its shape, as ``Layout`` has it."""
    return [(key, f"{key} {tuple(value.shape)}") for key, value in strip_wrappers(state_dict).items()]


def _apply(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and convert as the table says, and add what our modules need."""
    layout = LAYOUTS[name]
    translated: dict[str, Tensor] = {}
    for key, value in strip_wrappers(state_dict).items():
        if re.search(layout.drops, key):
            continue
        new = key
        for pattern, replacement in layout.renames:
            new = re.sub(pattern, replacement, new)
        if new in translated:
            raise UsageError(f"two keys, one of them {key}, become our {new}; the file mixes two versions.")
        translated[new] = value
        for pattern, change in layout.changes:
            if value.ndim == 4 and re.search(pattern, key):
                translated[new] = change(value)
    return complete(translated | _added(layout, translated))


def _added(layout: Layout, translated: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values that our modules have and the layout lacks."""
    added = {}
    biased = any(re.search(r"(^|\.)mlp\.[02]\.bias$", key) for key in translated)
    for key, value in translated.items():
        if "bias" in layout.lacks and not biased and re.search(r"(^|\.)mlp\.[02]\.weight$", key):
            added[key.removesuffix("weight") + "bias"] = value.new_zeros(value.shape[0])
        if "bn" in layout.lacks and re.search(r"(^|\.)spatial\.conv\.weight$", key):
            for name, number in _IDENTITY.items():
                added[key.removesuffix("conv.weight") + f"bn.{name}"] = value.new_full((1,), number)
    return added
