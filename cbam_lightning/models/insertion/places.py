"""The places in a data flow at which attention makes sense: ends of residual branches, ends of stages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod

from cbam_lightning.models.insertion.dataflow import Dataflow, Value

# Names of the classifier in torchvision and timm; SqueezeNet's ends in a feature map of logits.
_HEADS = ("classifier", "fc", "head")


def residual_branches(flow: Dataflow) -> list[Value]:
    """Return the branch of every residual addition.

    The branch is the operand on the longer path, which must also pass more activations or normalisations.
    Operands of equal depth, as in RepVGG, have no shortcut; the linear branch of a LoRA is none, nor is what
    was resized to be added, as in a feature pyramid. A sum that no layer follows is the network's output: one
    with the network's input, or one of logits, none of which is computed from the other.
    """
    branches = []
    for first, second, total in flow.additions:
        shortcut, branch = sorted((first, second), key=lambda value: value.depth)
        is_branch = branch.depth > shortcut.depth and branch.bends > shortcut.bends
        is_block = shortcut.depth and shortcut.bit & branch.ancestors
        if is_branch and (is_block or not is_output(flow, total, pooled=False)):
            branch = next((value for value in _sources(branch) if module_of(flow, value)), branch)
            if not branch.operator.startswith("upsample"):
                branches.append(branch)
    return branches


def stage_ends(flow: Dataflow) -> list[Value]:
    """Return the last value of every resolution at which there are layers; outputs of the network are none.

    Everything at lower resolutions, or an output of the network, depends on such a value alone; and whatever
    depends on what was computed before at this resolution depends on this value, too.
    """
    named = {v: module_of(flow, v, any_kind=True) for v in flow.modules_of if is_map(flow, v)}
    maps = sorted((value for value, name in named.items() if name), key=lambda value: value.bit)
    passed = [
        value
        for value in maps
        if (value.bit & flow.dominators or _leads_on(value, maps))
        and _is_passage(flow, value, maps)
        and str(named[value]).split(".")[0] not in _HEADS
    ]
    ends, depth = list[Value](), 0
    for _, run in groupby(passed, key=_resolution):
        inner = [value for value in run if not _makes_output(flow, value)]
        if inner and inner[-1].depth > depth:
            ends.append(inner[-1])
            depth = inner[-1].depth
    return ends


def outputs_of(flow: Dataflow) -> list[str]:
    """Return the modules after which the network's outputs follow without another layer."""
    last = [value for value in flow.modules_of if is_map(flow, value) and _makes_output(flow, value)]
    ends = [v for v in last if not any(v.bit & other.ancestors for other in last if other is not v)]
    return [name for name in (module_of(flow, value, any_kind=True) for value in ends) if name]


def is_map(flow: Dataflow, value: Value) -> bool:
    """Return whether a value is a feature map or a sequence of several channels and positions."""
    axis = value.channel_axis
    if axis is None or len(value.shape) not in (3, 4, 5):
        return False
    return value.shape[axis] > 1 and prod(value.positions) > 1 and partition(flow, value) is None


def partition(flow: Dataflow, value: Value) -> str | None:
    """Return what a tensor holds if it holds parts of the images: regions of a detector, patches, windows.

    They are more or fewer than the images; or, as in MaxViT, with the channels last the positions are the
    windows and what is in them. The sides of a map are in the proportion of the image's, but for the rounding
    of one position.
    """
    if len(value.shape) in (3, len(flow.input_shape)) and value.shape[0] != flow.input_shape[0]:
        return f"{value.shape[0]} regions or patches of {flow.input_shape[0]} images"
    if value.channel_axis == 1 or len(value.positions) != 2 or len(flow.input_shape) != 4:
        return None
    (height, width), (image_height, image_width) = value.positions, flow.input_shape[2:]
    if abs(height * image_width - width * image_height) <= max(image_height, image_width):
        return None
    return f"windows: its {height} x {width} positions are not in the proportion of the image"


def is_output(flow: Dataflow, value: Value, pooled: bool = True) -> bool:
    """Return whether an output of the network is computed from this value alone, without another layer.

    Args:
        flow: Of the network.
        value: A value in it.
        pooled: Whether vectors, such as logits pooled from a map, count as outputs.
    """
    return any(
        value.bit & result.dominators and result.depth == value.depth and (pooled or len(result.shape) > 2)
        for result in flow.results
    )


def module_of(flow: Dataflow, value: Value, any_kind: bool = False) -> str | None:
    """Return the module that computed a value, or the outermost one around it that returns the same value.

    Neither the network itself nor a module that is called several times, such as a shared ReLU, qualifies.

    Args:
        flow: Of the network.
        value: A value in it.
        any_kind: Whether lists of modules and those with an attribute ``attention`` of their own qualify;
            inserted attention follows the last module in them.
    """
    unfit = set() if any_kind else flow.lists | flow.taken
    names = [
        name
        for name in flow.modules_of.get(value, [])
        if name and len(flow.outputs[name]) == 1 and name not in unfit
    ]
    around = [name for name in names if names[0].startswith(f"{name}.")]
    return min([*names[:1], *around], key=len, default=None)


def _sources(value: Value | None) -> Iterator[Value]:
    """Yield a value and those it was scaled, permuted or reshaped from, up to one that was resized."""
    while value is not None:
        yield value
        resized = value.source is None or prod(value.shape) != prod(value.source.shape)
        value = None if resized or value.operator.startswith("upsample") else value.source


def _is_passage(flow: Dataflow, value: Value, maps: list[Value]) -> bool:
    """Return whether all that depends on the maps before a value depends on it, too.

    Those are the maps of its run of a resolution from which it was computed.
    """
    before = 0
    for other in maps:
        if other.bit >= value.bit:
            break
        before = before | other.bit if _resolution(other) == _resolution(value) else 0
    before &= value.ancestors
    later = [*(other for other in maps if other.bit > value.bit), *flow.results]
    return all(other.ancestors & value.bit or not other.ancestors & before for other in later)


def _leads_on(value: Value, maps: list[Value]) -> bool:
    """Return whether all later maps of a lower resolution depend on a value alone.

    Where there is no lower resolution, as at the bottom of a U-Net, the value must be of its only run.
    """
    size = _resolution(value)
    smaller = [other for other in maps if _resolution(other) < size]
    later = [other for other in smaller if other.bit > value.bit]
    if smaller:
        return bool(later) and all(other.dominators & value.bit for other in later)
    return [resolution for resolution, _ in groupby(maps, key=_resolution)].count(size) == 1


def _resolution(value: Value) -> int:
    """Return the number of positions: that of tokens is the same as that of the map which they were."""
    return prod(value.positions)


def _makes_output(flow: Dataflow, value: Value) -> bool:
    """Return whether a value enters the network's output without another layer, perhaps beside others."""
    results = [r for r in flow.results if not (flow.headless and len(r.shape) == 2)]
    return any(value.bit & result.ancestors and result.depth == value.depth for result in results)
