"""Detect which of our networks a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from cbam_lightning.attention.registry import Placement, default_placement
from cbam_lightning.errors import UsageError
from cbam_lightning.models.attention_detection import Place, detect_attention
from cbam_lightning.models.registry import MODELS

# The attention module of a stage or a block, and the name of a value inside it.
_ATTENTION_KEY = re.compile(r"^(attention\.\w+|(?:.+\.)?attention)\.(.+)$")

_Shapes = Mapping[str, tuple[int, ...]]


class DetectedNetwork(NamedTuple):
    """The network that a state dict belongs to: the arguments of ``build``, in their order."""

    network: str
    attention: str
    attention_options: dict[str, Any]
    network_options: dict[str, Any]
    num_classes: int
    in_channels: int


def detect_network(
    state_dict: Mapping[str, Tensor],
    network: str | None = None,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> DetectedNetwork:
    """Detect our ResNet that comes closest to these keys and shapes, with its attention and options.

    Options that leave no trace in a state dict keep their defaults unless they are given: the convolution of
    a bottleneck that has the stride, the stride of a 3x3 stem, and of attention the gate, pools, orders and
    the like. Attention without parameters is not seen.

    Args:
        state_dict: Values with our keys, as from ``cbam_lightning.weights.translate``.
        network: Name of the network, if known.
        attention: Name of the attention, if known.
        attention_options: Known options; they override the detected ones.
        network_options: Known options; they override the detected ones.

    Returns:
        The network; whether it fits exactly is known once the state dict is loaded into it.

    Raises:
        UsageError: The state dict cannot belong to one of our networks.
    """
    shapes = _shapes_of(state_dict)
    backbone = {key: shape for key, shape in shapes.items() if not _ATTENTION_KEY.match(key)}
    places, placement = _find_places(shapes)
    detected: dict[str, Any] = {}
    if places:
        attention, detected = detect_attention(places, attention, attention_options)
    num_classes, in_channels = (shapes.get("fc.weight") or (0,))[0], _shape(shapes, "conv1.weight")[1]
    attention = attention or "none"
    options: dict[str, Any] = {}
    if not network:
        network, options = _detect_resnet(backbone)
    if placement not in (None, default_placement(attention)):
        options["placement"] = placement
    return DetectedNetwork(
        network,
        attention,
        {**detected, **(attention_options or {})},
        {**options, **(network_options or {})},
        num_classes,
        in_channels,
    )


def _detect_resnet(backbone: _Shapes) -> tuple[str, dict[str, Any]]:
    """Return the name that comes closest to these shapes, and the options that differ from its own."""
    options = _read_resnet(backbone)
    differing: dict[str, dict[str, Any]] = {}
    for name, architecture in MODELS.items():
        defaults = {"stem": "imagenet", "widths": (64, 128, 256, 512), "groups": 1, **architecture.options}
        alike = all(options[option] == defaults.get(option) for option in ("block", "stem"))
        if alike and architecture.options.keys() <= options.keys():
            differing[name] = {key: value for key, value in options.items() if value != defaults.get(key)}
    name = min(differing, key=lambda name: ("depths" in differing[name], len(differing[name])))
    options = differing[name]
    return name, {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


def _read_resnet(backbone: _Shapes) -> dict[str, Any]:
    """Read the arguments of ``ResNet`` from the shapes."""
    stem = _shape(backbone, "conv1.weight")
    stages = [f"layer{n}" for n in range(1, 100) if f"layer{n}.0.conv1.weight" in backbone]
    bottleneck = "layer1.0.conv3.weight" in backbone
    last, expansion = ("conv3", 4) if bottleneck else ("conv2", 1)
    widths = tuple(_shape(backbone, f"{stage}.0.{last}.weight")[0] // expansion for stage in stages)
    options: dict[str, Any] = {
        "block": "bottleneck" if bottleneck else "basic",
        "stem": "imagenet" if stem[-1] == 7 else "cifar",
        "depths": tuple(sum(f"{s}.{i}.conv1.weight" in backbone for i in range(1000)) for s in stages),
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


def _find_places(shapes: _Shapes) -> tuple[list[Place], Placement | None]:
    """Return the attention modules, and where networks have them; ``None`` without any."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if match := _ATTENTION_KEY.match(key):
            modules.setdefault(match[1], {})[match[2]] = shape
    if not modules:
        return [], None
    first, values = next(iter(modules.items()))
    odd = next((name for name, others in modules.items() if others.keys() != values.keys()), None)
    if odd is not None:
        raise UsageError(f"{odd} has a gate of another design than {first}; in our networks all are alike.")
    places = [Place(name, _channels(shapes, name), values) for name, values in modules.items()]
    return places, "stage" if first.startswith("attention.") else "block"


def _channels(shapes: _Shapes, place: str) -> int:
    """Return the number of channels of the stage that an attention module is in."""
    stage = next((part for part in place.split(".") if part.startswith("layer")), place)
    last = "conv3" if f"{stage}.0.conv3.weight" in shapes else "conv2"
    return _shape(shapes, f"{stage}.0.{last}.weight")[0]


def _shape(shapes: _Shapes, key: str) -> tuple[int, ...]:
    shape = shapes.get(key, ())
    if len(shape) < 2:
        what = f"of shape {shape}" if key in shapes else "missing"
        raise UsageError(
            f"{key} is {what}, so this is not a ResNet that is known here. Name other networks of "
            "torchvision or timm as torchvision/NAME or timm/NAME."
        )
    return shape


def _shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state_dict.items()}
