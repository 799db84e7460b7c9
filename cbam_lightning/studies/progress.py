"""How far a run has come, from what it has written."""

from __future__ import annotations

import csv

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.studies.plan import StudyRun


def max_epochs(run: StudyRun) -> float:
    """Return how many epochs a run will train for; 1 if its configuration does not say."""
    value = run.expected.get("trainer.max_epochs")
    return float(value) if isinstance(value, (int, float)) and value > 0 else 1.0


def epochs_done(run: RunDirectory) -> int:
    """Return how many epochs a run has validated so far."""
    if not run.metrics.is_file():
        return 0
    with run.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return len({row["epoch"] for row in rows if row.get("val/loss") and row.get("epoch")})


def how_long(seconds: float) -> str:
    """Return a duration for people, such as ``1 h 5 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
