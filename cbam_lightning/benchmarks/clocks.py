"""Clocks: functions that measure the seconds of a call, on a CPU or a device that works on its own."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

# Far above the resolution and the cost of the clock, both below 1e-6 s.
SHORTEST_S = 0.005
# On an accelerator, so that a measurement has several steps: one is launched while an earlier one runs.
SHORTEST_ON_DEVICE_S = 0.2
# Of the events of a measurement together, and what is overwritten before each: more than any cache of a GPU.
# Both are about those of triton.testing.do_bench.
_EVENTS_S, _FLUSHED_BYTES = 0.06, 2**28


class _Seconds(NamedTuple):
    wall: float
    issue: float  # until the last call returned, which may be before the device is done


Clock = Callable[[Callable[[], object], torch.device], Callable[[], float]]


def wall_clock(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Return a function that measures the seconds per call, several calls in a row, until they are done."""
    calls, shortest = 1, SHORTEST_S if device.type == "cpu" else SHORTEST_ON_DEVICE_S
    while _seconds(call, calls, device).wall < shortest:
        calls *= 2

    def measure() -> float:
        call()
        return _seconds(call, calls, device).wall / calls

    return measure


def event_clock(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Return a function that measures the median seconds between two events around a call, on a CUDA device.

    The caches are emptied before each call, as in a training, where other work is in between. On other
    devices it is the ``wall_clock``.
    """
    if device.type != "cuda":
        return wall_clock(call, device)
    empty_caches = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=device).zero_
    calls = max(1, int(_EVENTS_S / _seconds(call, 5, device).wall * 5))

    event = partial(torch.cuda.Event, enable_timing=True)

    def measure() -> float:
        call()
        events = [(event(), event()) for _ in range(calls)]
        with _no_garbage_collection():
            for before, after in events:
                empty_caches()
                before.record()
                call()
                after.record()
            torch.cuda.synchronize(device)
        milliseconds: list[float] = [before.elapsed_time(after) for before, after in events]
        return statistics.median(milliseconds) / 1e3

    return measure


def issue_clock(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Return a function that measures how long the CPU takes to launch a call's work on an idle device.

    When a device has much to do already, launching waits for it.
    """

    def measure() -> float:
        call()
        return _seconds(call, 1, device).issue

    return measure


def first_call_seconds(call: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Return how long a single call without warm-up takes, such as one that compiles."""
    return _seconds(call, 1, torch.device(device)).wall


def synchronize(device: torch.device) -> None:
    """Wait until a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(call: Callable[[], object], calls: int, device: torch.device) -> _Seconds:
    """Return the duration of some calls, from an idle device to an idle device."""
    with _no_garbage_collection():
        synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        issued = time.perf_counter()
        synchronize(device)
        return _Seconds(time.perf_counter() - started, issued - started)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
