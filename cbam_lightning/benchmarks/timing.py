"""Time candidates alternately, so that a change of the machine's speed affects all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import torch
from tqdm import tqdm

from cbam_lightning.benchmarks.clocks import Clock, wall_clock
from cbam_lightning.errors import UsageError


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    device: str | torch.device = "cpu",
    description: str = "measuring",
    clock: Clock = wall_clock,
) -> dict[str, list[float]]:
    """Measure how long each candidate takes, alternately.

    Before each measurement the same candidate is called once without timing, as one training step follows
    another: otherwise a candidate would pay for memory that the previous one returned to the system, which
    can take longer than its own work.

    A candidate that takes less than ``SHORTEST_S`` (on an accelerator: ``SHORTEST_ON_DEVICE_S``) is called 2,
    4, 8, … times per measurement, until a measurement lasts that long; the number is determined once, after
    the warm-up. Python's garbage collector is off while the clock runs, and runs between the rounds.

    Args:
        candidates: Functions without arguments, by name.
        repeats: Measurements of each candidate.
        warmup: Calls of each candidate before the first measurement, at least 1.
        device: Device of the work; unless it is the CPU, the clock waits for it.
        description: Label of the progress bar.
        clock: Makes the function that measures a candidate.

    Returns:
        Seconds per call: ``repeats`` of them for each candidate, in the order in which they were measured.
    """
    measures = {}
    for name, call in candidates.items():
        for _ in range(max(1, warmup)):
            call()
        measures[name] = clock(call, torch.device(device))
    return in_turns(measures, repeats, description)


def in_turns(
    measures: Mapping[str, Callable[[], float]], repeats: int, description: str = "measuring"
) -> dict[str, list[float]]:
    """Run functions that return their own measurement alternately, every other round in reverse order.

    A steady drift, for example of the processor's temperature, so adds the same to every candidate's sum over
    each pair of rounds.

    Args:
        measures: Functions that return one measurement, by name.
        repeats: Measurements of each.
        description: Label of the progress bar.

    Returns:
        ``repeats`` measurements for each name, in the order in which they were made.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    names = list(measures)
    gc.freeze()  # existing objects are not scanned in every round
    try:
        for turn in tqdm(range(repeats), desc=description, leave=False):
            gc.collect()
            for name in names if turn % 2 == 0 else reversed(names):
                results[name].append(measures[name]())
    finally:
        gc.unfreeze()
    return results


def try_step(step: Callable[[], object], description: str) -> None:
    """Run a training step once.

    Args:
        step: The step.
        description: What is trained, or on which input, for the message.

    Raises:
        UsageError: The step is impossible with this input, for example BatchNorm of a single value.
    """
    try:
        step()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"no training step is possible on {description}: {error} Give other sizes."
        ) from error
