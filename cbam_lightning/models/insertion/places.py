"""The places in a data flow at which attention makes sense: ends of residual branches, ends of stages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod

from cbam_lightning.models.insertion.dataflow import Dataflow, Value
from cbam_lightning.models.insertion.maps import is_map, module_of, resolution
from cbam_lightning.models.insertion.outputs import is_output, is_used, makes_output

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
    whole = (value for value, name in named.items() if name and name not in flow.attention_parts)
    maps = sorted(whole, key=lambda value: value.bit)
    maps = [value for value in maps if "pad" not in value.operator and is_used(flow, value)]
    passed = [
        value
        for value in maps
        if (value.bit & flow.dominators or _leads_on(value, maps))
        and _is_passage(flow, value, maps)
        and str(named[value]).split(".")[0] not in _HEADS
        and not makes_output(flow, value)
    ]
    ends, depth = list[Value](), 0
    for _, run in groupby(passed, key=resolution):
        *_, last = run
        if last.depth > depth:
            ends.append(last)
            depth = last.depth
    return ends


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
        before = before | other.bit if resolution(other) == resolution(value) else 0
    before &= value.ancestors
    later = [*(other for other in maps if other.bit > value.bit), *flow.results]
    return all(other.ancestors & value.bit or not other.ancestors & before for other in later)


def _leads_on(value: Value, maps: list[Value]) -> bool:
    """Return whether all later maps of a lower resolution depend on a value alone.

    Where there is no lower resolution, as at the bottom of a U-Net, all later maps must depend on it.
    """
    size = resolution(value)
    later = [other for other in maps if other.bit > value.bit]
    if any(resolution(other) < size for other in maps):
        lower = [other for other in later if resolution(other) < size]
        return bool(lower) and all(other.dominators & value.bit for other in lower)
    runs = [positions for positions, _ in groupby(maps, key=resolution)]
    return runs.count(size) == 1 and all(other.ancestors & value.bit for other in later)


def _comes_back(flow: Dataflow, shortcut: Value, branch: Value) -> bool:
    """Return whether a branch beside a shortcut with a layer comes back from a lower resolution.

    So do the ways through a feature pyramid and the gating signal of an attention U-Net.
    """
    if shortcut.bit & branch.ancestors:
        return False
    size = resolution(branch)
    return any(
        value.bit & branch.ancestors and not value.bit & shortcut.ancestors and resolution(value) < size
        for value in flow.modules_of
        if is_map(flow, value)
    )
