"""Time several candidates in turns, so that what happens to the machine happens to all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm

# Far above the clock's resolution and the cost of reading it, both below 1e-6 s.
SHORTEST_S = 0.005


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    device: str | torch.device = "cpu",
    description: str = "measuring",
) -> dict[str, list[float]]:
    """Measure how long each candidate takes, in turns.

    Each measurement follows one call of the same candidate off the clock, as a training step follows another:
    otherwise a candidate would pay for the memory that the one before it gave back to the system, which can
    be more than all of its own work.

    A candidate that takes less than ``SHORTEST_S`` is called 2, 4, 8, … times in each measurement, as often
    as it takes to last that long; the number is found once, after the warm-up. Python's garbage collector
    rests while the clock runs, and works between the rounds.

    Args:
        candidates: Functions without arguments, by name.
        repeats: Measurements of each candidate.
        warmup: Calls of each candidate before the first measurement, at least 1.
        device: Where the work is done; the clock waits for one other than the CPU.
        description: What the progress bar says.

    Returns:
        Seconds per call: ``repeats`` of them for each candidate, in the order in which they were measured.
    """
    measures = {}
    for name, call in candidates.items():
        for _ in range(max(1, warmup)):
            call()
        measures[name] = _Stopwatch(call, torch.device(device))
    return in_turns(measures, repeats, description)


def in_turns(
    measures: Mapping[str, Callable[[], float]], repeats: int, description: str = "measuring"
) -> dict[str, list[float]]:
    """Run measurements that know their own result in turns, every other round in reversed order.

    What grows or shrinks steadily, as the heat of the processor does, adds the same to the sum of every
    candidate in each pair of rounds.

    Args:
        measures: Functions that return one measurement, by name.
        repeats: Measurements of each.
        description: What the progress bar says.

    Returns:
        ``repeats`` measurements for each name, in the order in which they were made.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    names = list(measures)
    gc.freeze()  # what is there already is not looked through again in every round
    try:
        for turn in tqdm(range(repeats), desc=description, leave=False):
            gc.collect()
            for name in names if turn % 2 == 0 else reversed(names):
                results[name].append(measures[name]())
    finally:
        gc.unfreeze()
    return results


def first_call_seconds(call: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Return how long one call takes that nothing has prepared, such as one that compiles."""
    return _seconds(call, 1, torch.device(device))


class _Stopwatch:
    """One measurement of a function a call, in seconds per call of that function."""

    def __init__(self, call: Callable[[], object], device: torch.device) -> None:
        self.call = call
        self.device = device
        self.calls = 1
        while _seconds(call, self.calls, device) < SHORTEST_S:
            self.calls *= 2

    def __call__(self) -> float:
        self.call()
        return _seconds(self.call, self.calls, self.device) / self.calls


def _seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    collected_before = gc.isenabled()
    gc.disable()
    try:
        _wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        _wait(device)
        return time.perf_counter() - started
    finally:
        if collected_before:
            gc.enable()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
