"""Find insertion points for attention in any network: modules whose output attention may change."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.attended import CHILD
from cbam_lightning.models.insertion.dataflow import Dataflow, Value, record
from cbam_lightning.models.insertion.example_inputs import Example
from cbam_lightning.models.insertion.places import (
    is_map,
    is_output,
    module_of,
    outputs_of,
    partition,
    residual_branches,
    stage_ends,
)
from cbam_lightning.models.insertion.rehearsal import unfit_hosts

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
    if patterns is None:
        return _residual_points(network, flow) or _stage_points(network, flow)
    if patterns == ["stage"]:
        return _stage_points(network, flow)
    if patterns == ["residual"]:
        if points := _residual_points(network, flow):
            return points
        raise UsageError(
            f"{type(network).__name__} has no residual branch that a module returns as a map. "
            "Choose where='stage', or give a pattern of submodule names."
        )
    names = [name for name, _ in network.named_modules() if name]
    matched = {name for pattern in patterns for name in _matching(pattern, names)}
    order = list(flow.outputs)
    named = {point.name: point for point in (_named_point(flow, name) for name in names if name in matched)}
    for name in unfit_hosts(network, flow, list(named)):
        raise _refused(flow, name, "runs over its own modules, so that attention would be one of them")
    return sorted(named.values(), key=lambda point: order.index(point.name))


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network itself, which ``torch.compile`` may have wrapped.

    Raises:
        UsageError: It is no module, one of TorchScript, or in a wrapper that trains in parallel.
    """
    network = getattr(network, "_orig_mod", network)
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise UsageError(f"network is a {kind}; pass a torch.nn.Module.")
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError(
            f"{kind} is TorchScript, whose code is fixed. Insert attention into the network that it was made "
            "from."
        )
    if "Parallel" in kind and isinstance(getattr(network, "module", None), nn.Module):
        raise UsageError(
            f"the network is wrapped in {kind}. Insert attention before wrapping: "
            "insert_attention(network.module, …), then wrap the result."
        )
    return network


def _residual_points(network: nn.Module, flow: Dataflow) -> list[InsertionPoint]:
    branches = residual_branches(flow)
    points = _points(network, flow, branches, "residual")
    if missing := len(branches) - len(points):
        instead = "" if points else "; the ends of the stages get it instead"
        _tell(f"on {missing} of {len(branches)} residual branches: no module returns them as a map{instead}")
    return points


def _stage_points(network: nn.Module, flow: Dataflow) -> list[InsertionPoint]:
    if outputs := outputs_of(flow):
        _tell(f"after {', '.join(outputs)}: the network's output follows without another layer")
    ends = stage_ends(flow)
    points = _points(network, flow, ends, "stage")
    if taken := [str(module_of(flow, end, any_kind=True)) for end in ends if not module_of(flow, end)]:
        _tell(
            f"after {', '.join(taken)}: no module inside can take it, for its attribute {CHILD!r} is in use"
        )
    return points


def _tell(left_out: str) -> None:
    warnings.warn(f"no attention {left_out}.", stacklevel=4)


def _points(network: nn.Module, flow: Dataflow, values: Iterable[Value], kind: Kind) -> list[InsertionPoint]:
    """Return a point for each feature map that a module returned."""
    found = ((module_of(flow, value), value) for value in values)
    points = {name: _point(name, value, kind) for name, value in found if name and is_map(flow, value)}
    for name in unfit_hosts(network, flow, list(points)):
        del points[name]
        _tell(f"after {name}: it runs over its own modules")
    return list(points.values())


def _point(name: str, value: Value, kind: Kind) -> InsertionPoint:
    axis = value.channel_axis
    assert axis is not None  # a map has one
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


def _named_point(flow: Dataflow, name: str) -> InsertionPoint:
    found = _host(flow, name)
    if isinstance(found, tuple):
        return _point(*found, "pattern")
    raise _refused(flow, name, found)


def _refused(flow: Dataflow, name: str, reason: str) -> UsageError:
    fitting = [n for n in flow.outputs if n and isinstance(_host(flow, n), tuple)]
    inside = [other for other in fitting if other.startswith(f"{name}.")]
    beside = [other for other in fitting if other.rpartition(".")[0] == name.rpartition(".")[0]]
    shown = (inside or beside or fitting)[-_SHOWN:]
    hint = f"Choose modules such as {', '.join(shown)}." if shown else "No module returns one feature map."
    return UsageError(f"attention cannot follow {name!r}, which {reason}. {hint}")


def _host(flow: Dataflow, name: str) -> tuple[str, Value] | str:
    """Return the module to which attention after ``name`` goes, with its output, or what is wrong with it."""
    fault = fault_of(flow, name)
    if fault is not None:
        return fault
    output = flow.outputs[name][0]
    assert isinstance(output, Value)  # or it would be a fault
    if is_output(flow, output, pooled=False):
        return "returns the network's output"
    if name in flow.taken:
        return f"has an attribute {CHILD!r} of its own"
    if name not in flow.lists:
        return name, output
    inside = [n for n in flow.modules_of[output] if n.startswith(f"{name}.") and n not in flow.lists]
    inside = [n for n in inside if len(flow.outputs[n]) == 1]
    return (inside[-1], output) if inside else "runs its modules in its own way"


def fault_of(flow: Dataflow, name: str) -> str | None:
    """Return why the output of a module is not one feature map; ``None`` if it is one."""
    outputs = flow.outputs.get(name, [])
    if not outputs:
        return "is not called in evaluation mode"
    output = outputs[0]
    if len(outputs) > 1:
        return f"is called {len(outputs)} times in a forward pass"
    if isinstance(output, str):
        return output
    if len(output.shape) not in (3, 4, 5):
        return f"returns a tensor of shape {output.shape}, not a feature map"
    if output.channel_axis is None:
        return f"returns a tensor of shape {output.shape}, whose axis of channels is not known"
    if parts := partition(flow, output):
        return f"returns a tensor of shape {output.shape}, of {parts}"
    return None
