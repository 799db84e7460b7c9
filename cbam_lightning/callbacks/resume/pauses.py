"""When a run is saved, and when it stops: what all its processes agree on between two actions."""

from __future__ import annotations

import math
import time

import torch
from pytorch_lightning import Trainer

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.divergence import LossWatch, has_finite_weights
from cbam_lightning.callbacks.resume.moments import Moment
from cbam_lightning.callbacks.resume.processes import Alarm, agree
from cbam_lightning.callbacks.resume.signals import StopSignals, requeue
from cbam_lightning.errors import RunStopped
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import resume_command

# What the processes agree on at a moment: the largest of their wishes.
_GO_ON, _SAVE, _SIGNAL, _FAILED, _DIVERGED = 0, 1, 128, 900, 1000


class Pauses:
    """Saves a run when it is due, and stops it on a signal, a lost loss, or a checkpoint that is not written.

    Args:
        run: Its ``checkpoints/last.ckpt`` is written.
        options: How often to save.
        checkpoint_io: Knows whether a checkpoint could not be written.

    Attributes:
        losses: Watches the losses, of which it has to be told.
        moment: When the run is saved, while it is.
    """

    def __init__(self, run: RunDirectory, options: SaveOptions, checkpoint_io: AtomicCheckpointIO) -> None:
        self.run = run
        self.options = options
        self.checkpoint_io = checkpoint_io
        self.losses = LossWatch()
        self.moment: Moment | None = None
        self._alarm = Alarm()
        self._signals = StopSignals()
        self._saved_step, self._saved_at_s = 0, time.monotonic()

    def begin(self, trainer: Trainer) -> None:
        """Install the signal handlers; what has just been loaded need not be saved."""
        self._signals.install(trainer)
        self._saved_step, self._saved_at_s = trainer.global_step, time.monotonic()

    def pause_if_asked(self, trainer: Trainer, moment: Moment) -> None:
        """Save or stop if any process wants to, one step after it does; the others do not wait to know.

        Raises:
            RunStopped: As ``pause``.
            OSError: As ``pause``.
        """
        if self._is_due_by_steps(trainer.global_step):  # which all processes count alike
            self.pause(trainer, moment)
            return
        asks, total = self._asks(trainer.global_step), self.losses.take_total()
        alone = trainer.world_size == 1
        if total is not None or not alone:
            number = torch.zeros((), device=trainer.strategy.root_device) if total is None else total
            self._alarm.send(trainer, number.fill_(math.nan) if asks else number)
        if (alone and asks) or self._alarm.is_heard(trainer):
            self.pause(trainer, moment)

    def pause(self, trainer: Trainer, moment: Moment) -> None:
        """Save or stop if any process wants to; all of them wait until they know.

        Raises:
            RunStopped: A signal came, or the loss became NaN or Inf.
            OSError: A checkpoint could not be written, and ``on_error`` is "stop" or the run has ended.
        """
        self._alarm.settle()
        code = agree(trainer, self._wish(trainer, moment))
        if code == _DIVERGED:
            raise self.losses.stop(trainer, self.run)
        self.losses.forget()
        if code == _FAILED:
            raise self._failed(trainer)
        if code != _GO_ON:
            self._save(trainer, moment)
            # after the end, no later checkpoint can make up for it
            is_final = moment is Moment.END or self.options.on_error == "stop"
            if is_final and agree(trainer, _FAILED * (self.checkpoint_io.failure is not None)):
                raise self._failed(trainer)
        if code >= _SIGNAL:
            raise self._stopped(trainer, code)

    def refuse_lost_losses(self, trainer: Trainer) -> None:
        """Look at the last losses before another callback writes a checkpoint, on all processes.

        Raises:
            RunStopped: One of them is NaN or Inf.
        """
        if self.moment is None and agree(trainer, int(not self.losses.is_finite())):
            raise self.losses.stop(trainer, self.run)

    def _asks(self, step: int) -> bool:
        """Return whether this process has a reason to pause that the others may not know of."""
        return self._signals.received is not None or self._has_failed or self._is_late(step)

    def _wish(self, trainer: Trainer, moment: Moment) -> int:
        if not self.losses.is_finite():
            return _DIVERGED
        if self._has_failed:
            return _FAILED
        wish = _SAVE if self._is_due(trainer.global_step, moment) else _GO_ON
        if self._signals.received is not None and moment is not Moment.END:
            wish = _SIGNAL + self._signals.received
        return wish if wish == _GO_ON or has_finite_weights(trainer.lightning_module) else _DIVERGED

    @property
    def _has_failed(self) -> bool:
        return self.checkpoint_io.failure is not None and self.options.on_error == "stop"

    def _is_due(self, step: int, moment: Moment) -> bool:
        if moment is Moment.END:
            return True
        at_the_end = moment is Moment.EPOCH and step != self._saved_step
        return at_the_end or self._is_late(step) or self._is_due_by_steps(step)

    def _is_late(self, step: int) -> bool:
        minutes = self.options.every_minutes
        is_late = minutes is not None and time.monotonic() - self._saved_at_s >= 60 * minutes
        return is_late and step != self._saved_step

    def _is_due_by_steps(self, step: int) -> bool:
        steps = self.options.every_steps
        return steps is not None and step - self._saved_step >= steps

    def _save(self, trainer: Trainer, moment: Moment) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "sync"):
                logger.sync()
        self.moment = moment
        try:
            trainer.save_checkpoint(self.run.last, weights_only=False)
        finally:
            self.moment = None
        self._saved_step, self._saved_at_s = trainer.global_step, time.monotonic()

    def _failed(self, trainer: Trainer) -> Exception:
        if self.checkpoint_io.failure is None:  # the first process could not write
            return RunStopped("", 0)
        return OSError(
            f"a checkpoint could not be written ({self.checkpoint_io.failure}); the previous one stays, and "
            f"`{resume_command(self.run.path)}` continues from it."
        )

    def _stopped(self, trainer: Trainer, code: int) -> RunStopped:
        if not trainer.is_global_zero:
            return RunStopped("", 0)
        if self._signals.asks_to_requeue:
            requeue()
        return RunStopped(
            f"stopped after step {trainer.global_step}, with everything saved. Continue with: "
            f"{resume_command(self.run.path)}",
            code,
        )
