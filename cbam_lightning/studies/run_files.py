"""What the files in a run's directory say: its configuration, its results, and how it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cbam_lightning.callbacks.run_record import NETWORK_KEY, tested_metrics
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory

# How W&B writes numbers for which JSON has no word.
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")


def read_config(run: RunDirectory) -> dict[str, Any]:
    """Return the resolved configuration of a run.

    Raises:
        UsageError: The file is damaged.
    """
    return _mapping(run, run.config, yaml.safe_load)


def read_tested(run: RunDirectory) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics of a run's test, and the options of its network; nothing if it has not been tested.

    Raises:
        UsageError: The file is damaged.
    """
    if not run.results.is_file():
        return {}, {}
    results = _mapping(run, run.results, json.loads)
    parts = {"metrics": results.get("metrics"), NETWORK_KEY: results.get(NETWORK_KEY, {})}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise UsageError(f"{run.path} is damaged: {name} in {run.results.name} is {part!r}. Leave it out.")
    return numbers(tested_metrics(results)), parts[NETWORK_KEY]


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers, NaN and Inf among them."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if type(value) in (int, float) or (isinstance(value, str) and value in _NO_NUMBERS)
    }


def unfinished_state(run: RunDirectory) -> str:
    """Return how a run without a result stands.

    Returns:
        ``running``; ``diverged``, if its loss became NaN or Inf; ``stopped`` by a signal; ``failed``;
        ``untested``; or ``started``, if nothing says how it ended, as after SIGKILL.
    """
    if run.is_occupied:
        return "running"
    if run.divergence.is_file():
        return "diverged"
    return {"stopped": "stopped", "failed": "failed", "ended": "untested"}.get(run.ending, "started")


def _mapping(run: RunDirectory, file: Path, read: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = read(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{run.path} is damaged: {why}. Leave it out.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{run.path} is damaged: {file.name} holds {content!r:.40}. Leave it out.")
    return content
