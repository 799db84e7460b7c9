"""What a GPU adds to the time of a step: the CPU's time to issue it, its kernels, and its peak memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from cbam_lightning.benchmarks.clocks import issue_clock, synchronize
from cbam_lightning.benchmarks.measurements import Measurement, collect, milliseconds
from cbam_lightning.benchmarks.timing import in_turns

# Name: title, unit.
DEVICE_FIGURES = {
    "issue": ("issued by the CPU", "ms"),
    "busy": ("busy time of the GPU", "ms"),
    "kernels": ("kernels, copies and fills on the GPU", "kernels"),
    "peak_memory": ("peak memory beyond what stays", "bytes"),
}


def device_figures(
    group: str,
    steps: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    *,
    with_graphs: bool = False,
) -> dict[str, list[Measurement]]:
    """Measure the ``DEVICE_FIGURES`` of steps that have run several times; none unless on a CUDA device.

    Args:
        group: Name of the group.
        steps: The candidates.
        device: Where they run.
        repeats: Measurements of each candidate's time of issue; the other figures are of one step.
        with_graphs: Whether they are CUDA graphs, which keep their memory, so that a step allocates none.
    """
    if device.type != "cuda":
        return {}
    clocks = {name: issue_clock(step, device) for name, step in steps.items()}
    kernels = {name: profile_kernels(step, device) for name, step in steps.items()}
    peaks = {} if with_graphs else {name: [peak_bytes(step, device)] for name, step in steps.items()}
    return {
        "issue": collect(group, in_turns(clocks, repeats, f"issue, {group}"), milliseconds),
        "busy": collect(group, {name: [seconds] for name, (seconds, _) in kernels.items()}, milliseconds),
        "kernels": collect(group, {name: [count] for name, (_, count) in kernels.items()}),
        "peak_memory": collect(group, peaks),
    }


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that tensors take during a step, beyond what they take before it."""
    synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def profile_kernels(step: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Return the sum of the seconds of a step's kernels, copies and fills, and their number."""
    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        synchronize(device)
    return sum_kernels(recorded.events() or ())


def sum_kernels(events: Iterable[Any]) -> tuple[float, int]:
    """Return the sum of the seconds on the device, and their number, of a profile's events.

    Ranges that a user or an optimiser names appear on the device, too, around the kernels that they contain.
    """
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return sum(e.self_device_time_total for e in kernels) / 1e6, len(kernels)
