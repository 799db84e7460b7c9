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
        if is_block or not (is_output(flow, total, pooled=False) or _comes_back(flow, shortcut, branch)):
            branch = next((value for value in _sources(branch) if module_of(flow, value)), branch)
            if is_branch and not branch.operator.startswith("upsample") and is_used(flow, branch):
                branches.append(branch)
    return branches


def stage_ends(flow: Dataflow) -> list[Value]:
    """Return the last value of every resolution at which there are layers; outputs of the network are none.

    Everything at lower resolutions, or an output of the network, depends on such a value alone; and whatever
    depends on what was computed before at this resolution depends on this value, too.
    """
    named = {v: module_of(flow, v, any_kind=True) for v in flow.modules_of if is_map(flow, v)}
    maps = sorted((value for value, name in named.items() if name), key=lambda value: value.bit)
    maps = [value for value in maps if "pad" not in value.operator and is_used(flow, value)]
    passed = [
        value
        for value in maps
        if (value.bit & flow.dominators or _leads_on(value, maps))
        and _is_passage(flow, value, maps)
        and str(named[value]).split(".")[0] not in _HEADS
        and not _makes_output(flow, value)
    ]
    ends, depth = list[Value](), 0
    for _, run in groupby(passed, key=_resolution):
        *_, last = run
        if last.depth > depth:
            ends.append(last)
            depth = last.depth
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
        for result in _final_results(flow)
    )


def _final_results(flow: Dataflow) -> list[Value]:
    """Return the network's outputs but for features: maps from which others of lower resolution are computed.

    Of a network that returns its pooled features, and says so by ``num_classes`` 0, they are none either.
    """
    features = [
        result
        for result in flow.results
        if any(result.bit & other.ancestors and other.depth > result.depth for other in flow.results)
    ]
    smallest = min((_resolution(feature) for feature in features), default=0)
    ends = [
        result
        for result in flow.results
        if _resolution(result) < smallest and any(f.bit & result.ancestors for f in features)
    ]
    others = [result for result in flow.results if result not in (*features, *ends) or len(result.shape) < 4]
    return [result for result in others if not (flow.headless and len(result.shape) == 2)]


def module_of(flow: Dataflow, value: Value, any_kind: bool = False) -> str | None:
    """Return the module that computed a value, or the outermost one around it that returns the same value.

    Neither the network itself nor a module that is called several times, such as a shared ReLU, qualifies.

    Args:
        flow: Of the network.
        value: A value in it.
        any_kind: Whether lists of modules, and others after which attention cannot be inserted, qualify;
            it follows the last module in them.
    """
    names = [
        name
        for name in flow.modules_of.get(value, [])
        if name and len(flow.outputs[name]) == 1 and (any_kind or name not in flow.unfit)
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

    Where there is no lower resolution, as at the bottom of a U-Net, all later maps must depend on it.
    """
    size = _resolution(value)
    later = [other for other in maps if other.bit > value.bit]
    if any(_resolution(other) < size for other in maps):
        lower = [other for other in later if _resolution(other) < size]
        return bool(lower) and all(other.dominators & value.bit for other in lower)
    runs = [resolution for resolution, _ in groupby(maps, key=_resolution)]
    return runs.count(size) == 1 and all(other.ancestors & value.bit for other in later)


def _resolution(value: Value) -> int:
    """Return the number of positions: that of tokens is the same as that of the map which they were."""
    return prod(value.positions)


def _makes_output(flow: Dataflow, value: Value) -> bool:
    """Return whether a value enters the network's output without another layer, perhaps beside others.

    So does a map with the channels of an output map that one layer follows.
    """
    for result in _final_results(flow):
        layers = result.depth - value.depth if value.bit & result.ancestors else -1
        same = result.channel_axis is not None and len(result.shape) > 2
        if layers == 0 or (layers == 1 and same and _channels(result) == _channels(value)):
            return True
    return False


def _channels(value: Value) -> int:
    return value.shape[value.channel_axis] if value.channel_axis is not None else 0


def _comes_back(flow: Dataflow, shortcut: Value, branch: Value) -> bool:
    """Return whether a branch beside a shortcut with a layer comes back from a lower resolution.

    So do the ways through a feature pyramid and the gating signal of an attention U-Net.
    """
    if shortcut.bit & branch.ancestors:
        return False
    size = _resolution(branch)
    return any(
        value.bit & branch.ancestors and not value.bit & shortcut.ancestors and _resolution(value) < size
        for value in flow.modules_of
        if is_map(flow, value)
    )


def is_used(flow: Dataflow, value: Value) -> bool:
    """Return whether an output of the network depends on a value."""
    return not flow.results or any(value.bit & result.ancestors for result in flow.results)
