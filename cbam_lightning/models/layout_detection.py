"""Find out which network of ours a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbam_lightning.attention.registry import Placement, default_placement
from cbam_lightning.errors import UsageError
from cbam_lightning.models.factory import build
from cbam_lightning.models.registry import MODELS

# A stage's or a block's attention, and the name of a value inside it.
_ATTENTION_KEY = re.compile(r"^(attention\.\w+|(?:.+\.)?attention)\.(.+)$")

_Shapes = Mapping[str, tuple[int, ...]]


class Recognised(NamedTuple):
    """The network that a state dict belongs to: the arguments of ``build``, in their order."""

    network: str
    attention: str
    attention_options: dict[str, Any]
    network_options: dict[str, Any]
    num_classes: int
    in_channels: int


def recognise(state_dict: Mapping[str, Tensor], **given: Any) -> Recognised:
    """Find the ResNet of ours that has exactly these keys and shapes, with its attention and its options.

    What leaves no trace in them keeps its default, unless it is given: which convolution of a bottleneck has
    the stride, and of CBAM the pools, the order of the halves, a ReLU and the gate.

    Args:
        state_dict: Under our key names, as from ``cbam_lightning.weights.translate``.
        given: ``network``, ``attention``, ``network_options`` and ``attention_options``, as far as they are
            known; options are added to what is found.

    Raises:
        UsageError: No network of ours has these keys and shapes; the message says what differs.
    """
    shapes = _shapes_of(state_dict)
    backbone = {key: shape for key, shape in shapes.items() if not _ATTENTION_KEY.match(key)}
    attention, attention_options, placement = _recognise_attention(shapes)
    num_classes, in_channels = _shape(shapes, "fc.weight", (0,))[0], _shape(shapes, "conv1.weight")[1]
    attention = given.get("attention") or attention
    network: str = given.get("network") or ""
    network_options: dict[str, Any] = {}
    if not network:
        network, network_options = _recognise_resnet(backbone, num_classes, in_channels)
    if placement not in (None, default_placement(attention)):
        network_options["placement"] = placement
    found = Recognised(
        network,
        attention,
        {**attention_options, **(given.get("attention_options") or {})},
        {**network_options, **(given.get("network_options") or {})},
        num_classes,
        in_channels,
    )
    check_same(state_dict, _built(found), f"{network} with attention {attention}")
    return found


def _recognise_resnet(backbone: _Shapes, num_classes: int, in_channels: int) -> tuple[str, dict[str, Any]]:
    """Return a name of ours with these shapes, or the nearest one and the options that make it so."""
    options = _read_resnet(backbone)
    for name, architecture in MODELS.items():
        if tuple(architecture.options.get("depths", ())) == options["depths"]:
            candidate = Recognised(name, "none", {}, {}, num_classes, in_channels)
            if _shapes_of(_built(candidate)) == backbone:
                return name, {}
    kind = options.pop("block"), options.pop("stem")
    alike = [
        name
        for name, architecture in MODELS.items()
        if (architecture.options.get("block"), architecture.options.get("stem", "imagenet")) == kind
    ]
    name = min(alike, key=lambda name: tuple(MODELS[name].options["depths"]) != tuple(options["depths"]))
    ours = {"widths": (64, 128, 256, 512), "groups": 1, **MODELS[name].options}
    return name, {
        option: list(value) if isinstance(value, tuple) else value
        for option, value in options.items()
        if value != ours.get(option)
    }


def _read_resnet(backbone: _Shapes) -> dict[str, Any]:
    """Read the arguments of ``ResNet`` off the shapes."""
    stem = _shape(backbone, "conv1.weight")
    stages = [f"layer{n}" for n in range(1, 100) if f"layer{n}.0.conv1.weight" in backbone]
    depths = tuple(sum(f"{s}.{i}.conv1.weight" in backbone for i in range(1000)) for s in stages)
    bottleneck = "layer1.0.conv3.weight" in backbone
    last, expansion = ("conv3", 4) if bottleneck else ("conv2", 1)
    widths = tuple(_shape(backbone, f"{stage}.0.{last}.weight")[0] // expansion for stage in stages)
    options: dict[str, Any] = {
        "block": "bottleneck" if bottleneck else "basic",
        "stem": "imagenet" if stem[-1] == 7 else "cifar",
        "depths": depths,
        "widths": widths,
    }
    if widths and stem[0] != widths[0]:
        options["stem_width"] = stem[0]
    if bottleneck and widths[0]:
        inner, per_group = _shape(backbone, "layer1.0.conv2.weight")[:2]
        groups = inner // max(1, per_group)
        if (groups, inner) != (1, widths[0]):
            options |= {"groups": groups, "width_per_group": 64 * per_group // widths[0]}
    return options


def _recognise_attention(shapes: _Shapes) -> tuple[str, dict[str, Any], Placement | None]:
    """Return name, options and place of the attention; for none its name, and no options and place."""
    places: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if found := _ATTENTION_KEY.match(key):
            places.setdefault(found[1], {})[found[2]] = shape
    if not places:
        return "none", {}, None
    place, members = next(iter(places.items()))
    placement: Placement = "stage" if place.startswith("attention.") else "block"
    odd = next((name for name, others in places.items() if others.keys() != members.keys()), None)
    if odd is not None:
        message = f"{odd} has a gate of another design than {place}; one of ours is the same everywhere."
        raise UsageError(message)
    if {"channel.fc1.weight", "spatial.reduce.weight"} <= members.keys():
        return "bam", _reduction(places, "channel.fc1.weight"), placement
    if "mlp.0.weight" in members:
        return "se", _reduction(places, "mlp.0.weight"), placement
    if not {"channel.mlp.0.weight", "spatial.conv.weight"} & members.keys():
        message = f"{place} has a gate of another design ({', '.join(list(members)[:3])})."
        raise UsageError(message)
    return "cbam", _cbam_options(places, members), placement


def _cbam_options(places: Mapping[str, _Shapes], members: _Shapes) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "channel.mlp.0.weight" in members:
        options |= _reduction(places, "channel.mlp.0.weight")
    if "spatial.conv.weight" not in members:
        return options | {"arrangement": "channel"}
    if "channel.mlp.0.weight" not in members:
        options["arrangement"] = "spatial"
    if "spatial.reduce.weight" in members:
        options["spatial_pool"] = "conv1x1"
    kernel_size = _shape(members, "spatial.conv.weight")[-1]
    return options if kernel_size == 7 else options | {"kernel_size": kernel_size}


def _reduction(places: Mapping[str, _Shapes], key: str) -> dict[str, int]:
    """Return the ratio that gives the hidden layers of all places; nothing if it is 16, the default."""
    sizes = {(hidden, channels) for place in places.values() for hidden, channels in [_shape(place, key)[:2]]}
    for ratio in (16, *sorted(channels // max(1, hidden) for hidden, channels in sizes)):
        if ratio and all(max(1, channels // ratio) == hidden for hidden, channels in sizes):
            return {} if ratio == 16 else {"reduction": ratio}
    shown = ", ".join(f"{channels} to {hidden}" for hidden, channels in sorted(sizes))
    message = f"no one reduction ratio gives the hidden layers of the attention ({shown})."
    raise UsageError(message)


def _shape(shapes: _Shapes, key: str, absent: tuple[int, ...] | None = None) -> tuple[int, ...]:
    shape = shapes.get(key, absent)
    if not shape or (absent is None and len(shape) < 2):
        what = "missing" if shape is None else f"of shape {shape}"
        message = f"{key} is {what}, so this is no ResNet that is known here."
        raise UsageError(message)
    return shape


def _built(arguments: Recognised) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(*arguments).state_dict()


def _shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def check_same(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], what: str) -> None:
    """Raise a ``UsageError`` with the first differences unless both have the same keys and shapes.

    Args:
        theirs: A state dict.
        ours: That of the network.
        what: What to call the network.
    """
    faults = [f"{key} is missing" for key in ours if key not in theirs]
    faults += [f"{key} is not part of it" for key in theirs if key not in ours]
    faults += [
        f"{key} is {tuple(theirs[key].shape)} instead of {tuple(value.shape)}"
        for key, value in ours.items()
        if key in theirs and theirs[key].shape != value.shape
    ]
    if faults:
        more = f", … ({len(faults)} in all)" if len(faults) > 3 else ""
        message = f"the keys are not those of {what}: {', '.join(faults[:3])}{more}."
        raise UsageError(message)
