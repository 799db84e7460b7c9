"""Find insertion points for attention in any network: modules whose output attention may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Literal

from torch import Tensor, nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.dataflow import Dataflow, Value, record

# Names of the classifier in torchvision and timm; SqueezeNet's ends in a feature map of logits.
_HEADS = ("classifier", "fc", "head")
_SHOWN = 5


@dataclass(frozen=True)
class InsertionPoint:
    """A module whose output attention may change.

    Attributes:
        name: Name of the module, as in ``named_modules()``.
        channels: C of its output.
        shape: Shape of its output for the example input, (N, C, *positions).
        kind: How it was found.
    """

    name: str
    channels: int
    shape: tuple[int, ...]
    kind: Literal["residual", "stage", "pattern"]


def plan_insertion(
    network: nn.Module,
    where: str | Sequence[str] | None = None,
    example: Tensor | Sequence[int] | None = None,
) -> list[InsertionPoint]:
    """Find the modules whose output attention would change; nothing is inserted.

    Args:
        network: Any network with one input and feature maps (N, C, *positions).
        where: ``residual``: the branch of every residual addition, before the addition. ``stage``: the last
            output of every resolution at which there are convolutions. Otherwise one or more shell patterns
            of submodule names, for example ``layer*.bn3``, where ``*`` also matches dots. Default:
            ``residual``, or ``stage`` if the network has no residual addition.
        example: An input or its shape. Default: an image of 224 x 224 with the channels of the network's
            first convolution.

    Returns:
        The insertion points in the order of the forward pass; empty if ``stage`` finds none.

    Raises:
        UsageError: The network does not run on the example, there is no residual addition, a pattern matches
            no module, or a matched module does not return exactly one feature map per forward pass.
    """
    patterns = None if where is None else _patterns(where)
    flow = record(network, example)
    if patterns is None:
        return _residual_points(flow) or _stage_points(flow)
    if patterns == ["stage"]:
        return _stage_points(flow)
    if patterns == ["residual"]:
        if points := _residual_points(flow):
            return points
        raise UsageError(
            f"{type(network).__name__} adds no module's output to a shortcut of another depth. "
            "Choose where='stage', or give a pattern of submodule names."
        )
    names = [name for name, _ in network.named_modules() if name]
    matched = {name for pattern in patterns for name in _matching(pattern, names)}
    order = list(flow.outputs)
    points = [_named_point(flow, name) for name in names if name in matched]
    return sorted(points, key=lambda point: order.index(point.name))


def _residual_points(flow: Dataflow) -> list[InsertionPoint]:
    # The branch is the operand on the longer path. Operands of equal depth, as in RepVGG, have no shortcut.
    pairs = [pair for pair in flow.additions if pair[0].depth != pair[1].depth]
    branches = [max(pair, key=lambda value: value.depth) for pair in pairs]
    return _points(flow, branches, "residual")


def _stage_points(flow: Dataflow) -> list[InsertionPoint]:
    passed = [
        value
        for value in sorted(flow.modules_of, key=lambda value: value.bit)
        if value.bit & flow.dominators and (_module_of(flow, value) or "").split(".")[0] not in _HEADS
    ]
    ends, depth = [], 0
    for positions, run in groupby(passed, key=lambda value: value.shape[2:]):
        last = [value for value in run if _module_of(flow, value)][-1:]
        if last and max(positions, default=1) > 1 and last[0].depth > depth:
            ends += last
            depth = last[0].depth
    return _points(flow, ends, "stage")


def _points(
    flow: Dataflow, values: Iterable[Value], kind: Literal["residual", "stage"]
) -> list[InsertionPoint]:
    """Keep the feature maps that a module returned and that have as many dimensions as the input."""
    points: dict[str, InsertionPoint] = {}
    for value in values:
        name = _module_of(flow, value)
        if name and len(value.shape) == len(flow.input_shape):
            points[name] = InsertionPoint(name, value.shape[1], value.shape, kind)
    return list(points.values())


def _module_of(flow: Dataflow, value: Value) -> str | None:
    """Return the module that computed a value, or the outermost one around it that returns the same value.

    Neither the network itself nor a module that is called several times, such as a shared ReLU, qualifies.
    """
    names = [name for name in flow.modules_of.get(value, []) if name and len(flow.outputs[name]) == 1]
    around = [name for name in names if names[0].startswith(f"{name}.")]
    return min([*names[:1], *around], key=len, default=None)


def _patterns(where: str | Sequence[str]) -> list[str]:
    patterns = [where] if isinstance(where, str) else where
    is_list = isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)
    if not is_list or not patterns:
        raise UsageError(f"where is {where!r}; give 'residual', 'stage', or patterns of submodule names.")
    return list(patterns)


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        shown = difflib.get_close_matches(pattern, names, n=_SHOWN, cutoff=0.5) or names[:_SHOWN]
        raise UsageError(
            f"no submodule matches {pattern!r}. Give 'residual', 'stage' or a pattern of names such as "
            f"{', '.join(shown)}."
        )
    return matching


def _named_point(flow: Dataflow, name: str) -> InsertionPoint:
    found = _feature_map(flow.outputs.get(name, []))
    if isinstance(found, Value):
        return InsertionPoint(name, found.shape[1], found.shape, "pattern")
    fitting = [n for n, outputs in flow.outputs.items() if n and isinstance(_feature_map(outputs), Value)]
    inside = [other for other in fitting if other.startswith(f"{name}.")]
    beside = [other for other in fitting if other.rpartition(".")[0] == name.rpartition(".")[0]]
    shown = (inside or beside or fitting)[-_SHOWN:]
    hint = f"Choose modules such as {', '.join(shown)}." if shown else "No module returns one feature map."
    raise UsageError(f"attention cannot follow {name!r}, which {found}. {hint}")


def _feature_map(outputs: list[Value | str]) -> Value | str:
    """Return the only feature map that a module returned, or what is wrong with its outputs."""
    if not outputs:
        return "is not called in evaluation mode"
    output = outputs[0]
    if len(outputs) > 1:
        return f"is called {len(outputs)} times in a forward pass"
    if isinstance(output, str):
        return f"returns {output}, not a tensor"
    if len(output.shape) not in (3, 4, 5):
        return f"returns a tensor of shape {output.shape}, not a feature map"
    return output
