"""The W&B logger, with a journal from which a resumed run restores what W&B has lost."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.lines import LineFile

# Counts the points of a run in W&B, so that a resumed run knows which of them are there.
POINT = "trainer/point"


class WandbJournal(WandbLogger):
    """W&B, with a journal of all metrics in the run's directory.

    A resumed run sends the points of the journal that W&B lacks (all of them to the new recording of an
    offline run) and continues after the last point of the checkpoint. Images and tables are not in the
    journal: they stay in the recording to which they were logged.

    Args:
        run: Its ``history.jsonl`` is the journal.
        keep_points: Number of points to keep; later ones are removed from the journal.
        **options: Options of ``WandbLogger``.
    """

    def __init__(self, run: RunDirectory, keep_points: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.points = keep_points
        self._run = run
        self._failed = False
        self._last_there = -1  # the last point that W&B had before

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; it has all points of the journal."""
        if self._experiment is None:
            experiment = super().experiment
            self._last_there = int(experiment.summary.get(POINT, -1))
            for point, line in enumerate(self._journal.lines()):
                if point > self._last_there:
                    experiment.log({**json.loads(line)["values"], POINT: point})
        return self._experiment

    @cached_property
    def _journal(self) -> LineFile:
        return LineFile(self._run.history, self.points)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a point to the journal, then send it; training continues if it cannot be sent."""
        point = dict(metrics) if step is None else {**metrics, "trainer/global_step": step}
        experiment = self.experiment
        values = {name: value for name, value in point.items() if isinstance(value, (int, float, str))}
        self._journal.append(json.dumps({"values": values}))
        if self.points > self._last_there:
            self._send(experiment, {**point, POINT: self.points})
        self.points += 1

    def _send(self, experiment: Any, point: dict[str, Any]) -> None:
        try:
            experiment.log(point)
        except Exception as error:  # W&B's service is another process, which may have died
            if not self._failed:
                text = f"W&B takes no more points ({error}); `cbam-lightning resume` sends them."
                warnings.warn(text, stacklevel=2)
            self._failed = True

    @rank_zero_only
    def sync(self) -> None:
        """Wait until the journal is on the disk."""
        self._journal.sync()
