"""What the files in a run's directory say: its configuration, its results, and how it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory

# In results.json and in W&B: the options that `compare` needs to build the network again, including those
# that the data decided.
NETWORK_KEY = "network"
# How W&B writes numbers for which JSON has no word.
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")


def read_config(run: RunDirectory) -> dict[str, Any]:
    """Return the resolved configuration of a run.

    Raises:
        UsageError: The file is damaged.
    """
    return _mapping(run, run.config, yaml.safe_load)


def read_results(run: RunDirectory) -> dict[str, Any]:
    """Return what ``results.json`` says of the last validation or test; nothing if there was none.

    Raises:
        UsageError: The file is damaged.
    """
    if not run.results.is_file():
        return {}
    results = {NETWORK_KEY: {}, **_mapping(run, run.results, json.loads)}
    for name in ("metrics", NETWORK_KEY):
        if not isinstance(results.get(name), dict):
            what = f"{name} in {run.results.name} is {results.get(name)!r:.40}"
            raise UsageError(f"{run.path} is damaged: {what}. Leave it out.")
    return results


def tested_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a test by name; none if ``read_results`` returned those of a validation."""
    if results.get("stage", "test") != "test":
        return {}
    named = numbers(results.get("metrics", {}))
    # older files have no stage
    return {k: v for k, v in named.items() if "stage" in results or k.startswith("test/")}


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
