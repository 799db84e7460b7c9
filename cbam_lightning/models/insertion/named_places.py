"""Places for attention that are named by their modules."""

from __future__ import annotations

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.dataflow import Dataflow, Value
from cbam_lightning.models.insertion.maps import partition
from cbam_lightning.models.insertion.outputs import is_output, is_used
from cbam_lightning.models.insertion.unfit_modules import LIST

_SHOWN = 5  # modules that an error proposes


def host_of(flow: Dataflow, name: str) -> tuple[str, Value] | str:
    """Return the module to which attention after ``name`` goes, with its output, or what is wrong with it."""
    output = map_of(flow, name)
    if isinstance(output, str):
        return output
    if not is_used(flow, output):
        return "returns what the network does not use"
    if is_output(flow, output, pooled=False):
        return "returns the network's output"
    reason = flow.unfit.get(name)
    if reason is None:
        return name, output
    inside = [n for n in flow.modules_of[output] if n.startswith(f"{name}.") and n not in flow.unfit]
    inside = [n for n in inside if len(flow.outputs[n]) == 1]
    return (inside[-1], output) if inside and reason == LIST else reason


def map_of(flow: Dataflow, name: str) -> Value | str:
    """Return the only output of a module if it is a feature map, or else what is wrong with it."""
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
    parts = partition(flow, output)
    return output if parts is None else f"returns a tensor of shape {output.shape}, of {parts}"


def refused(flow: Dataflow, name: str, reason: str) -> UsageError:
    """Return an error that says why attention cannot follow a module, and which modules it can follow."""
    fitting = [n for n in flow.outputs if n and isinstance(host_of(flow, n), tuple)]
    inside = [other for other in fitting if other.startswith(f"{name}.")]
    beside = [other for other in fitting if other.rpartition(".")[0] == name.rpartition(".")[0]]
    shown = (inside or beside or fitting)[-_SHOWN:]
    hint = f"Choose modules such as {', '.join(shown)}." if shown else "No module returns one feature map."
    return UsageError(f"attention cannot follow {name!r}, which {reason}. {hint}")
