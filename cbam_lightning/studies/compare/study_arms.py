"""The arms of a study, under the names that its file gives them."""

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
    names = {str(run.directory.path): run.arm for run in study.runs}
    if strange := [run.source for run in runs if run.source not in names]:
        message = (
            f"{strange[0]} is no run of {study.path}; move it away, or add its arm or seed to the study."
        )
        raise UsageError(message)
    found: dict[str, Arm] = {}
    for arm in group_arms(runs, study.compared, ignore):
        labels = list(dict.fromkeys(names[run.source] for run in arm.runs.values()))
        if len(labels) > 1:
            message = f"the arms {' and '.join(labels)} of {study.path} have the same settings."
            raise UsageError(message)
        found[labels[0]] = replace(arm, label=labels[0])
    return [found[name] for name in study.arms if name in found]
