"""The W&B logger, with a journal from which a resumed run restores what W&B has lost."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.lines import LineFile
from cbam_lightning.runs.wandb_environment import as_mistakes, tell_offline
from cbam_lightning.weights.header import one_line

# Counts the points of a run in W&B, so that a resumed run knows which of them are there.
POINT = "trainer/point"
_LOST: set[str] = set()  # ids of the runs of which W&B takes no more points


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
        self._last_there = -1  # the last point that W&B had before

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; it has all points of the journal."""
        if self._experiment is None:
            experiment = self._start()
            self.send(lambda: self._repeat(experiment))
        return self._experiment

    def _start(self) -> Any:
        """Start the W&B run, offline if the server does not answer as it should.

        Raises:
            UsageError: W&B refuses the run.
        """
        with as_mistakes():
            try:
                return super().experiment
            except wandb.errors.CommError as error:
                if isinstance(error, wandb.errors.AuthenticationError):
                    raise
                tell_offline(one_line(error))
            wandb.teardown()  # its service still has a run of this id
            self._wandb_init.update(mode="offline", resume=None)
            self._wandb_init["settings"].silent = True
            self._log_model = False
            return super().experiment

    def _repeat(self, experiment: Any) -> None:
        """Send the points of the journal that W&B lacks."""
        self._last_there = int(experiment.summary.get(POINT, -1))
        for point, line in enumerate(self._journal.lines()):
            if point > self._last_there:
                experiment.log({**json.loads(line)["values"], POINT: point})

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
            sent = {**point, POINT: self.points}
            self.send(lambda: experiment.log(sent))
        self.points += 1

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Send the configuration; training continues if it cannot be sent."""
        _ = self.experiment  # a run that W&B refuses is an error
        self.send(lambda: super(WandbJournal, self).log_hyperparams(params))

    def finalize(self, status: str) -> None:
        """Upload the checkpoints, if that is wanted; the run ends well if they cannot be sent."""
        self.send(lambda: super(WandbJournal, self).finalize(status))

    def send(self, call: Callable[[], Any]) -> None:
        """Call what sends something to W&B, whose service is another process, which may have died.

        Args:
            call: Sends it; the first error is told, and none ends the training.
        """
        try:
            call()
        except Exception as error:
            tell_lost(self._run.id, error)

    @rank_zero_only
    def sync(self) -> None:
        """Wait until the journal is on the disk."""
        self._journal.sync()


def tell_lost(run_id: str, error: Exception) -> None:
    """Say once for a run that W&B does not take what it is sent.

    Args:
        run_id: Its id in W&B.
        error: What W&B raised.
    """
    if run_id in _LOST:
        return
    _LOST.add(run_id)
    text = f"W&B takes no more points ({one_line(error)}); `cbam-lightning resume` sends them."
    warnings.warn(text, stacklevel=1)
