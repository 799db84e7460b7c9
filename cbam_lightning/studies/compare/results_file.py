"""Finished runs of a study in one file, to publish them: JSON, a line for each run.

The first line holds what all runs share, every other line a run with its arm. ``settings`` are named as on
the command line; ``left_out`` lists what could not be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cbam_lightning.benchmarks.machine import this_machine
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write, check_unwritten
from cbam_lightning.runs.run_files import numbers
from cbam_lightning.studies.compare.arms import Arm
from cbam_lightning.studies.compare.finished import FinishedRun

ENDING = ".jsonl"
_TYPES = {"arm": str, "seed": int, "epochs": list}
_TYPES |= dict.fromkeys(("settings", "metrics", "network", "machine"), dict)
_SHOWN = 40


def save_results(
    path: str | Path, arms: Sequence[Arm], runs: Sequence[FinishedRun], left_out: Sequence[str] = ()
) -> None:
    """Write the runs of some arms to a results file.

    Args:
        path: A new file.
        arms: At least one, with at least one run.
        runs: The runs as they were read, with all their settings. Those that name no machine are said to be
            from this one.
        left_out: Lines on runs that are not among them.

    Raises:
        UsageError: The file already exists.
        OSError: It cannot be written.
    """
    check_unwritten(Path(path))
    here = {name: value for name, value in this_machine().items() if name != "threads"}  # of this process
    read = {run.source: run for run in runs}
    saved = [(arm.label, read[run.source]) for arm in arms for run in arm.runs.values()]
    records = [{**asdict(run), "arm": label, "machine": run.machine or here} for label, run in saved]
    shared = {key: _shared([record[key] for record in records]) for key in ("settings", "machine")}
    for record in records:
        del record["source"]
        for key, values in shared.items():
            record[key] = {name: value for name, value in record[key].items() if name not in values}
    lines = [{"shared": shared, "left_out": left_out}, *records]
    with atomic_write(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def read_results(path: Path) -> Iterator[FinishedRun | str]:
    """Yield the runs of a results file, and a line for each that could not be compared.

    Raises:
        UsageError: The file is damaged, or is not a results file.
    """
    try:
        first, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        shared = _checked(first, {"shared": dict, "left_out": list}, 1)["shared"]
        _checked(shared, dict.fromkeys(shared, dict), 1)
        yield from map(str, first["left_out"])
        for number, line in enumerate(lines, start=2):
            own = _checked(line, _TYPES, number)
            merged = {**own, **{key: {**values, **own[key]} for key, values in shared.items()}}
            merged["metrics"] = numbers(merged["metrics"])
            yield FinishedRun(f"{path}:{number} ({own['arm']}, seed {own['seed']})", **merged)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged, or not written by `compare --save`: {type(error).__name__}: {error}."
        ) from None


def _checked(record: Any, types: Mapping[str, type], number: int) -> dict[str, Any]:
    """Return what a line holds if all of these names have a value of their type, and metrics are numbers."""
    values = record if isinstance(record, dict) else {}
    for name, kind in types.items():
        if type(values.get(name)) is not kind:
            found = json.dumps(values[name]) if name in values else "missing"
            raise ValueError(f"in line {number}, {name} is {found[:_SHOWN]}")
    metrics = values.get("metrics", {})
    if wrong := metrics.keys() - numbers(metrics).keys():
        raise ValueError(f"in line {number}, {min(wrong)} is no number")
    return values


def _shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = records[0].items()
    return {key: value for key, value in first if all(key in r and r[key] == value for r in records)}
