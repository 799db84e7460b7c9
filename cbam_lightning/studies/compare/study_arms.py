"""The arms of a study, with the names from its file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from cbam_lightning.errors import UsageError
from cbam_lightning.studies import Study
from cbam_lightning.studies.compare.arms import Arm, group_arms
from cbam_lightning.studies.compare.finished import FinishedRun


def study_arms(study: Study, runs: Sequence[FinishedRun], ignore: Sequence[str] = ()) -> list[Arm]:
    """Sort the finished runs of a study into its arms, in the order of its file.

    Args:
        study: The study.
        runs: Its finished runs.
        ignore: As for ``group_arms``.

    Raises:
        UsageError: As from ``group_arms``; or two arms are the same, a run belongs to none, or only one arm
            has runs.
    """
    places = _places(study, runs)
    if strangers := [run.source for run in runs if run.source not in places]:
        raise UsageError(
            f"{strangers[0]} is not a run of {study.path}; move it away, or add its arm or seed to the study."
        )
    names = {source: arm for source, (arm, _) in places.items()}
    if len({*names.values()}) < 2:
        raise UsageError(
            f"{next(iter(names.values()))!r} is the only arm of {study.path} with a finished run, and a "
            f"comparison needs two: `cbam-lightning study {shlex.quote(str(study.path))} --list` shows all."
        )
    arms: dict[str, Arm] = {}
    for arm in group_arms(runs, study.compared, ignore):
        labels = list(dict.fromkeys(names[run.source] for run in arm.runs.values()))
        if len(labels) > 1:
            raise UsageError(f"the arms {' and '.join(labels)} of {study.path} have the same settings.")
        arms[labels[0]] = replace(arm, label=labels[0])
    return [arms[name] for name in study.arms if name in arms]


def unfinished(study: Study, runs: Sequence[FinishedRun], known: Sequence[str]) -> list[str]:
    """Return a line for each arm of a study without a finished run, and for each missing run of the others.

    Args:
        study: The study.
        runs: Its finished runs.
        known: Lines on runs that are left out, which begin with their directories.
    """
    finished = {*_places(study, runs).values()}
    arms = {arm for arm, _ in finished}
    lines = [f"{arm}: it has no finished run" for arm in study.arms if arm not in arms]
    for run in study.runs:
        told = any(line.startswith(f"{run.directory.path}: ") for line in known)
        if run.arm in arms and (run.arm, run.seed) not in finished and not told:
            lines.append(f"{run.name}: it has no result")
    return lines


def _places(study: Study, runs: Sequence[FinishedRun]) -> dict[str, tuple[str, int]]:
    """Return arm and seed of each run that belongs to the study, by the run's source."""
    folders = {str(run.directory.path): (run.arm, run.seed) for run in study.runs}
    places = {run.source: folders.get(run.source, (run.arm, run.seed)) for run in runs}
    return {
        source: (arm, seed)
        for source, (arm, seed) in places.items()
        if arm in study.arms and seed in study.seeds
    }
