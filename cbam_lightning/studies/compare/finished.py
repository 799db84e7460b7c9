"""Finished runs, read from their directories or from W&B."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
import yaml

from cbam_lightning.callbacks.run_record import NETWORK_KEY, tested_metrics
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.settings import Settings, flatten, without_filing

_WANDB_ID = r"[\w.-]+/[\w.-]+/[\w.-]+"


@dataclass(frozen=True)
class FinishedRun:
    """What a comparison has to know of a run.

    Attributes:
        source: Its directory, or its path in W&B.
        seed: What ``seed_everything`` was.
        settings: All settings that shape the result but for the seed, by dotted name.
        metrics: What the test gave, as fractions, for example ``{"test/top1": 0.91}``.
        network: What builds the network once more, as ``RunRecord`` wrote it; empty in older runs.
    """

    source: str
    seed: int
    settings: Settings
    metrics: Mapping[str, float]
    network: Mapping[str, Any] = field(default_factory=dict)


def find_runs(sources: Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """Read every finished run.

    Args:
        sources: Directories of runs, directories with runs anywhere below them, and runs of W&B as
            ``entity/project/id``, which are read through its API.

    Returns:
        The runs, each once, and for each that is left out a line that says why.

    Raises:
        UsageError: A source is neither, or there is no finished run in it.
        OSError: W&B cannot be reached.
    """
    runs: dict[str, FinishedRun] = {}
    left_out: list[str] = []
    for source in sources:
        found = 0
        for run in _read(source):
            if isinstance(run, str):
                left_out.append(run)
            else:
                runs[run.source] = run
                found += 1
        if not found:
            reasons = "".join(f" {line}." for line in left_out[-3:])
            message = (
                f"{source} holds no finished run.{reasons} Give directories of runs, or a folder of them."
            )
            raise UsageError(message)
    return list(runs.values()), left_out


def _read(source: str) -> Iterator[FinishedRun | str]:
    path = Path(source)
    if path.is_dir():
        for config in sorted(path.rglob("config.yaml")):
            # W&B keeps a file of this name, too, in a folder of its own inside a run's
            if "wandb" not in config.relative_to(path).parts:
                yield _from_directory(RunDirectory(config.parent))
    elif re.fullmatch(_WANDB_ID, source) and not path.exists():
        yield _from_wandb(source)
    else:
        message = f"{source} is neither a directory nor a run of W&B, which would be entity/project/id."
        raise UsageError(message)


def _from_directory(run: RunDirectory) -> FinishedRun | str:
    if not run.results.is_file():
        why = "its loss became no number" if run.divergence.is_file() else "it is not finished"
        return f"{run.path}: {why}"
    try:
        config = yaml.safe_load(run.config.read_text())
        results = json.loads(run.results.read_text())
        metrics, network = tested_metrics(results), results.get(NETWORK_KEY, {})
        return _finished(str(run.path), config, metrics, network)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{run.path} is damaged: {type(error).__name__}: {error}. Leave it out."
        raise UsageError(message) from None


def _from_wandb(path: str) -> FinishedRun | str:
    try:
        run = wandb.Api().run(path)
        config, summary, state = dict(run.config), dict(run.summary), str(run.state)
    except (wandb.Error, ValueError) as error:  # ValueError: no such run
        message = f"W&B has not given {path}: {error}"
        raise OSError(message) from error
    if state != "finished":
        return f"{path}: it is {state}"
    metrics = {name: value for name, value in summary.items() if name.startswith("test/")}
    return _finished(path, config, metrics, config.get(NETWORK_KEY, {}))


def _finished(
    source: str, config: Mapping[str, Any], metrics: Mapping[str, Any], network: Mapping[str, Any]
) -> FinishedRun | str:
    tested = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
    if not tested:
        return f"{source}: it was not tested"
    seed = config["seed_everything"]
    if type(seed) is not int:
        return f"{source}: its seed is not a number but {seed!r}"
    sections = ("trainer", "model", "data", "imports", "checkpoint", "ckpt_path", "optimizer", "lr_scheduler")
    settings = flatten({name: config[name] for name in sections if name in config})
    return FinishedRun(source, seed, without_filing(settings), tested, network)
