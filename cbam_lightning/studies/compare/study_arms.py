"""The arms of a study, with the names from its file."""

from __future__ import annotations

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
        UsageError: As from ``group_arms``; or two arms are the same, or a run belongs to none.
    """
    names = _names(study, runs)
    if strangers := [run.source for run in runs if run.source not in names]:
        raise UsageError(
            f"{strangers[0]} is not a run of {study.path}; move it away, or add its arm or seed to the study."
        )
    arms: dict[str, Arm] = {}
    for arm in group_arms(runs, study.compared, ignore):
        labels = list(dict.fromkeys(names[run.source] for run in arm.runs.values()))
        if len(labels) > 1:
            raise UsageError(f"the arms {' and '.join(labels)} of {study.path} have the same settings.")
        arms[labels[0]] = replace(arm, label=labels[0])
    return [arms[name] for name in study.arms if name in arms]


def unfinished_arms(study: Study, runs: Sequence[FinishedRun]) -> list[str]:
    """Return the arms of a study that have no finished run."""
    finished = _names(study, runs).values()
    return [arm for arm in study.arms if arm not in finished]


def _names(study: Study, runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Return the arm of each run that belongs to the study, by the run's source."""
    folders = {str(run.directory.path): (run.arm, run.seed) for run in study.runs}
    arms = {run.source: folders.get(run.source, (run.arm, run.seed)) for run in runs}
    return {source: arm for source, (arm, seed) in arms.items() if arm in study.arms and seed in study.seeds}
