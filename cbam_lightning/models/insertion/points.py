"""Find insertion points for attention in any network: modules whose output attention may change."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.dataflow import Dataflow, Value
from cbam_lightning.models.insertion.example_inputs import Example
from cbam_lightning.models.insertion.maps import is_map, module_of
from cbam_lightning.models.insertion.named_places import host_of, refused
from cbam_lightning.models.insertion.outputs import outputs_of
from cbam_lightning.models.insertion.places import residual_branches, stage_ends
from cbam_lightning.models.insertion.recording import record
from cbam_lightning.models.insertion.rehearsal import UNFIT, unfit_hosts
from cbam_lightning.models.insertion.wrappers import unwrapped

_SHOWN = 5
Kind = Literal["residual", "stage", "pattern"]


@dataclass(frozen=True)
class InsertionPoint:
    """A module whose output attention may change.

    Attributes:
        name: Name of the module, as in ``named_modules()``.
        channels: C of its output.
        shape: Shape of its output for the example input: (N, C, *positions), or with the channels last.
        kind: How it was found.
        channel_axis: The axis of the channels in ``shape``.
    """

    name: str
    channels: int
    shape: tuple[int, ...]
    kind: Kind
    channel_axis: int = 1

    @property
    def positions(self) -> tuple[int, ...]:
        """The sizes of the feature map without batch and channels."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, self.channel_axis))


def plan_insertion(
    network: nn.Module, where: str | Sequence[str] | None = None, example: Example = None
) -> list[InsertionPoint]:
    """Find the modules whose output attention would change; nothing is inserted.

    The network stays as it is. Its outputs are no insertion points; a warning names what was left out.

    Args:
        network: Any network with feature maps (N, C, *positions) or (N, *positions, C), or with sequences of
            tokens (N, L, C).
        where: ``residual``: the branch of every residual addition, before the addition. ``stage``: the last
            output of every resolution at which there are layers. Otherwise one or more shell patterns of
            submodule names, for example ``layer*.bn3``, where ``*`` also matches dots; the last module of an
            ``nn.Sequential`` takes its place. Default: ``residual``, or ``stage`` if the network has no
            residual addition.
        example: An input, its shape, or a tuple of all inputs. Default: an image of the size that the network
            states, or else of a usual one.

    Returns:
        The insertion points in the order of the forward pass; empty if ``stage`` finds none.

    Raises:
        UsageError: The network does not run on the example, there is no residual addition, a pattern matches
            no module, or a matched module does not return exactly one feature map per forward pass.
    """
    network = unwrapped(network)
    patterns = None if where is None else _patterns(where)
    flow = record(network, example)
    if patterns is not None and patterns not in (["stage"], ["residual"]):
        return _pattern_points(network, flow, patterns)
    points = [] if patterns == ["stage"] else _residual_points(network, flow, required=patterns is not None)
    points = points or _stage_points(network, flow)
    shared = [name for name, calls in flow.outputs.items() if len(calls) > 1 and name in flow.arguments]
    if not points and shared:
        part = min(shared, key=len)
        raise UsageError(
            f"{part!r} is called {len(flow.outputs[part])} times in a forward pass, so no place in it is "
            f"unique. Insert attention into it alone: insert_attention(network.{part}, …)."
        )
    return points


def _residual_points(network: nn.Module, flow: Dataflow, required: bool) -> list[InsertionPoint]:
    branches = residual_branches(flow)
    points = _points(network, flow, branches, "residual")
    if not points and required:
        raise UsageError(
            f"{type(network).__name__} has no residual branch that a module returns as a map. "
            "Choose where='stage', or give a pattern of submodule names."
        )
    if missing := len(branches) - len(points):
        instead = "" if points else "; the ends of the stages get it instead"
        _tell(f"on {missing} of {len(branches)} residual branches: no module returns them as a map{instead}")
    return points


def _pattern_points(network: nn.Module, flow: Dataflow, patterns: Sequence[str]) -> list[InsertionPoint]:
    names = [name for name, _ in network.named_modules() if name]
    matched = {name for pattern in patterns for name in _matching(pattern, names)}
    order = list(flow.outputs)
    hosts: dict[str, Value] = {}
    for name in (name for name in names if name in matched):
        found = host_of(flow, name)
        if isinstance(found, str):
            raise refused(flow, name, found)
        hosts[found[0]] = found[1]
    for name in unfit_hosts(network, flow, list(hosts)):
        raise refused(flow, name, f"would not run it once: {UNFIT}")
    return [_point(name, hosts[name], "pattern") for name in sorted(hosts, key=order.index)]


def _stage_points(network: nn.Module, flow: Dataflow) -> list[InsertionPoint]:
    if outputs := outputs_of(flow):
        _tell(f"after {', '.join(outputs)}: the network's output follows without another layer")
    ends = stage_ends(flow)
    points = _points(network, flow, ends, "stage")
    for end in (end for end in ends if not module_of(flow, end)):
        name = next(name for name in flow.modules_of[end] if name in flow.unfit)  # the innermost
        _tell(f"after {name}: it {flow.unfit[name]}")
    return points


def _tell(left_out: str) -> None:
    warnings.warn(f"no attention {left_out}.", stacklevel=4)


def _points(network: nn.Module, flow: Dataflow, values: Iterable[Value], kind: Kind) -> list[InsertionPoint]:
    """Return a point for each feature map that a module returned."""
    found = ((module_of(flow, value), value) for value in values)
    points = {name: _point(name, value, kind) for name, value in found if name and is_map(flow, value)}
    for name in unfit_hosts(network, flow, list(points)):
        del points[name]
        _tell(f"after {name}: {UNFIT}")
    return list(points.values())


def _point(name: str, value: Value, kind: Kind) -> InsertionPoint:
    (axis,) = value.axes
    return InsertionPoint(name, value.shape[axis], value.shape, kind, axis)


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
