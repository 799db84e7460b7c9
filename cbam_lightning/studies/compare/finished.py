"""Finished runs, read from their directories or from W&B."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.run_files import (
    NETWORK_KEY,
    numbers,
    read_config,
    read_results,
    tested_metrics,
    unfinished_state,
)
from cbam_lightning.runs.settings import Settings, flatten, is_below, without_filing

_WHY = {
    "running": "it is running",
    "diverged": "its loss became NaN or Inf",
    "stopped": "it was stopped, and can be resumed",
    "failed": "it failed",
    "killed": "it was killed",
    "crashed": "it crashed",
    "untested": "it was not tested",
    "started": "it is not finished",
}
_SECTIONS = ("trainer", "model", "data", "imports", "checkpoint", "ckpt_path", "optimizer", "lr_scheduler")


@dataclass(frozen=True)
class FinishedRun:
    """What is known of a run after its test.

    Attributes:
        source: Its directory, its line in a results file, or its path in W&B.
        seed: Value of ``seed_everything``.
        settings: All settings that affect the result, except the seed, by dotted name.
        metrics: Results of the test, shares as fractions, for example ``{"test/top1": 0.91}``; NaN and Inf
            may be among them.
        network: Options that rebuild the network, as ``RunRecord`` wrote them; empty in old runs.
        arm: The arm that it was saved in; empty for a run that is not from a results file.
        epochs: Metrics of each epoch with ``epoch`` and ``step``; empty for a run from W&B.
        machine: Where it ran, and the versions of the libraries; empty if it has not been saved yet.
    """

    source: str
    seed: int
    settings: Settings
    metrics: Mapping[str, float]
    network: Mapping[str, Any] = field(default_factory=dict)
    arm: str = ""
    epochs: Sequence[Mapping[str, float]] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)


def read_directory(run: RunDirectory) -> FinishedRun | str:
    """Read a run from its directory.

    Returns:
        The run, or why it cannot be compared.

    Raises:
        UsageError: A file of the run is damaged.
    """
    results = read_results(run)
    metrics = tested_metrics(results)
    if not metrics:
        state = "untested" if results else unfinished_state(run)
        return f"{run.path}: {_WHY[state]}"
    config = read_config(run)
    try:
        epochs = _epochs(run.metrics)
    except (csv.Error, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{run.metrics} is damaged: {type(error).__name__}: {error}.") from None
    return _finished(str(run.path), config, metrics, network=results[NETWORK_KEY], epochs=epochs)


def read_wandb(path: str) -> FinishedRun | str:
    """Read a run from W&B, like ``read_directory``.

    Args:
        path: ``entity/project/id``.

    Raises:
        OSError: W&B cannot be reached, or has no such run.
    """
    try:
        run = wandb.Api().run(path)
        config, summary, state = dict(run.config), dict(run.summary), str(run.state)
    except (wandb.Error, ValueError) as error:  # ValueError: no such run
        raise OSError(f"W&B has not returned {path}: {error}") from error
    if state != "finished":
        return f"{path}: {_WHY.get(state, f'it is {state}')}"
    metrics = numbers({name: value for name, value in summary.items() if name.startswith("test/")})
    if not metrics:
        return f"{path}: {_WHY['untested']}"
    network = config.get(NETWORK_KEY)
    return _finished(path, config, metrics, network=network if isinstance(network, dict) else {})


def _finished(
    source: str, config: Mapping[str, Any], metrics: Mapping[str, float], **details: Any
) -> FinishedRun | str:
    seed = config.get("seed_everything")
    if type(seed) is not int:
        return f"{source}: its seed is {seed!r}, not a number"
    settings = {key: value for key, value in flatten(config).items() if is_below(key, _SECTIONS)}
    return FinishedRun(source, seed, without_filing(settings), metrics, **details)


def _epochs(file: Path) -> list[dict[str, float]]:
    """Return what ``metrics.csv`` says of each epoch of training and validation."""
    epochs: dict[int, dict[str, float]] = {}
    rows = csv.DictReader(file.read_text().splitlines()) if file.is_file() else ()
    for row in rows:
        values = {name: value for name, value in row.items() if value and not name.startswith("test/")}
        if "epoch" in values and values.keys() - {"epoch", "step"}:
            floats = {name: float(value) for name, value in values.items()}
            counts = {name: int(floats[name]) for name in ("epoch", "step") if name in floats}
            epochs.setdefault(counts["epoch"], {}).update(floats | counts)
    return list(epochs.values())
