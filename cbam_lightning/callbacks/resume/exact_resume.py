"""The callback of exact resume: it saves, stops on signals, and restores the complete state of a run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.utilities import rank_zero_info

from cbam_lightning.callbacks.resume.accumulated import Accumulated, load_accumulated
from cbam_lightning.callbacks.resume.changed_options import ChangedOptions, Configured, read_configured
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.data_changes import STATE_KEY as DATA_KEY
from cbam_lightning.callbacks.resume.data_changes import DataChanges
from cbam_lightning.callbacks.resume.divergence import LossWatch, has_finite_weights
from cbam_lightning.callbacks.resume.exact_loader import read_exactly
from cbam_lightning.callbacks.resume.moments import Moment, prepare_logging, prepare_loops, write_progress
from cbam_lightning.callbacks.resume.position import continue_epoch, read_position
from cbam_lightning.callbacks.resume.processes import agree
from cbam_lightning.callbacks.resume.signals import StopSignals, requeue
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.errors import RunStopped
from cbam_lightning.optim.place import TrainingPlace, accumulated_batches
from cbam_lightning.optim.schedules import FactorLR
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import program

# Key of the state of ``ExactResume`` in a checkpoint: the class's first name.
STATE_KEY = "Survival"
# What the processes agree on at a moment: the largest of their wishes.
_GO_ON, _SAVE, _SIGNAL, _FAILED, _DIVERGED = 0, 1, 128, 900, 1000


def read_points(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return how many points of each logger a checkpoint knows of, by class name."""
    callbacks = checkpoint.get("callbacks")
    state = callbacks.get(STATE_KEY) if isinstance(callbacks, dict) else None
    points = state.get("points") if isinstance(state, dict) else None
    return {name: int(count) for name, count in points.items()} if isinstance(points, dict) else {}


class ExactResume(Callback):
    """Save the complete state of a run, stop on signals, and restore what Lightning does not.

    Args:
        run: Its ``checkpoints/last.ckpt`` holds the state.
        options: How often to save.
        checkpoint_io: Knows whether a checkpoint could not be written.
        seeds: Has the seed of the run; the trainer's next callback, so that steps are seeded after saving.
        limits: What says when training ends, as text. A run that ended before its last epoch, as
            ``EarlyStopping`` does it, is trained on only when this has changed.
        changed_data: Whether the run may go on with other images.
    """

    def __init__(
        self,
        run: RunDirectory,
        options: SaveOptions,
        checkpoint_io: AtomicCheckpointIO,
        seeds: StepSeeds,
        limits: str = "",
        changed_data: bool = False,
    ) -> None:
        self.run = run
        self.options = options
        self.checkpoint_io = checkpoint_io
        self.seeds = seeds
        self.limits = limits
        self._place: TrainingPlace
        self._data = DataChanges(changed_data)
        self._configured: Configured = {}
        self._changes: ChangedOptions | None = None
        self._signals = StopSignals()
        self._losses = LossWatch()
        self._accumulated = Accumulated()
        self._moment: Moment | None = None
        self._restored: dict[str, Any] | None = None
        self._loader_states: list[dict[str, Any]] = []
        self._saved_step, self._saved_at_s = 0, time.monotonic()

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return STATE_KEY

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the data so that any batch can be read again, and refuse others before anything is written."""
        if stage == "fit":
            self._place = TrainingPlace(trainer)
            read_exactly(trainer, lambda: self.seeds.seed)
            self._data.read(trainer)
            self._compare_data(trainer, self._state_in(self.checkpoint_io.kept(self.run.last) or {}))

    def _compare_data(self, trainer: Trainer, state: Mapping[str, Any] | None) -> None:
        if state is not None and self._data.are_described:
            self._data.compare(trainer, state)

    def _state_in(self, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state of this callback in a checkpoint that was written during training."""
        # BatchSizeFinder and LearningRateFinder save and load the state before the first step
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        return state if checkpoint.get("global_step") else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what is configured with the checkpoint, whose optimisers are not loaded yet."""
        self._configured = read_configured(trainer, pl_module)
        if self._restored is None:
            return
        checkpoint = trainer._checkpoint_connector._loaded_checkpoint
        epochs = self._restored.get("place", {}).get("epochs", float(checkpoint["epoch"]))
        before = self._restored.get("configured")
        self._changes = ChangedOptions(trainer, checkpoint, before, self._configured, epochs)
        if self._restored.get("ended") == self.limits and self._restored["moment"] == Moment.END:
            trainer.should_stop = True
            rank_zero_info(
                f"{self.run.path} ended before its last epoch, as EarlyStopping does it; to train on, change "
                "the options of what ended it, or --trainer.max_epochs."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish loading, and install the signal handlers."""
        self._signals.install(trainer)
        self._saved_at_s = time.monotonic()
        if self._restored is None:
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
                self._configured = read_configured(trainer, pl_module)  # again, for the found size
            return
        self._data.compare(trainer, self._restored)
        self._saved_step = trainer.global_step
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, FactorLR):
                config.scheduler.place = self._place
        if self._restored["moment"] is not None:
            prepare_loops(trainer, Moment(self._restored["moment"]))
            continue_epoch(self._place, Moment(self._restored["moment"]), self._restored.get("place"))
        prepare_logging(trainer, self._restored["moment"])
        trainer._logger_connector._callback_metrics.update(self._restored["callback_metrics"])
        if self._changes is not None:
            self._changes.apply()

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the accumulated state, which a module may have reset in its own ``on_train_start``."""
        if self._restored is not None:
            # GradientAccumulationScheduler does it at the start of an epoch only
            trainer.accumulate_grad_batches = accumulated_batches(trainer, trainer.current_epoch)
            load_accumulated(trainer, pl_module, self._restored)
            if self._restored["moment"] == Moment.BATCH:
                # by which Lightning numbers what is logged; on loading, it counts one step twice
                trainer.fit_loop.epoch_loop._batches_that_stepped = self._restored["logged_steps"]
        self._restored = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an epoch, once its last point is logged."""
        self._restore(trainer, pl_module)
        if trainer.current_epoch:
            self._pause(trainer, Moment.EPOCH)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch."""
        self._restore(trainer, pl_module)
        self._accumulated.forget()
        # in between there are accumulated gradients, which no checkpoint holds
        if batch_idx and batch_idx % trainer.accumulate_grad_batches == 0:
            self._pause(trainer, Moment.BATCH)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss and the state of the loaders."""
        self._losses.note(trainer, outputs, batch, batch_idx)
        loader = trainer.fit_loop._combined_loader
        self._loader_states = loader._state_dicts() if loader is not None else []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may take long."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restore(trainer, pl_module)
            self._accumulated.note(pl_module)
            self._pause_to_validate(trainer)

    def _pause_to_validate(self, trainer: Trainer) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._pause(trainer, Moment.VALIDATION)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Stop on a signal during a validation, which starts again when the run is resumed."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._pause_to_validate(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let ``ReduceLROnPlateau`` see an epoch that ends with a resumed validation like any other."""
        self._accumulated.forget()
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._pause(trainer, Moment.END)

    def _pause(self, trainer: Trainer, moment: Moment) -> None:
        """Save or stop if any process wants to.

        Raises:
            RunStopped: A signal came, or the loss became NaN or Inf.
            OSError: A checkpoint could not be written, and ``on_error`` is "stop" or the run has ended.
        """
        code = agree(trainer, self._wish(trainer, moment))
        if code == _DIVERGED:
            raise self._losses.stop(trainer, self.run)
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

    def _wish(self, trainer: Trainer, moment: Moment) -> int:
        if not self._losses.is_finite():
            return _DIVERGED
        if self.checkpoint_io.failure is not None and self.options.on_error == "stop":
            return _FAILED
        wish = _SAVE if self._is_due(trainer.global_step, moment) else _GO_ON
        if self._signals.received is not None and moment is not Moment.END:
            wish = _SIGNAL + self._signals.received
        return wish if wish == _GO_ON or has_finite_weights(trainer.lightning_module) else _DIVERGED

    def _is_due(self, step: int, moment: Moment) -> bool:
        if moment is Moment.END:
            return True
        if step == self._saved_step:
            return False
        minutes, steps = self.options.every_minutes, self.options.every_steps
        late = minutes is not None and time.monotonic() - self._saved_at_s >= 60 * minutes
        return moment is Moment.EPOCH or late or (steps is not None and step - self._saved_step >= steps)

    def _save(self, trainer: Trainer, moment: Moment) -> None:
        for logger in trainer.loggers:
            if hasattr(logger, "sync"):
                logger.sync()
        self._moment = moment
        try:
            trainer.save_checkpoint(self.run.last, weights_only=False)
        finally:
            self._moment = None
        self._saved_step, self._saved_at_s = trainer.global_step, time.monotonic()

    def _failed(self, trainer: Trainer) -> Exception:
        if self.checkpoint_io.failure is None:  # the first process could not write
            return RunStopped("", 0)
        return OSError(
            f"a checkpoint could not be written ({self.checkpoint_io.failure}); the previous one stays, and "
            f"`{_resume_command(self.run)}` continues from it."
        )

    def _stopped(self, trainer: Trainer, code: int) -> RunStopped:
        if not trainer.is_global_zero:
            return RunStopped("", 0)
        if self._signals.asks_to_requeue:
            requeue()
        return RunStopped(
            f"stopped after step {trainer.global_step}, with everything saved. Continue with: "
            f"{_resume_command(self.run)}",
            code,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the moment; ``on_save_checkpoint`` adds the rest of the state."""
        return {"moment": None if self._moment is None else str(self._moment)}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Add what Lightning leaves out."""
        state = checkpoint["callbacks"][self.state_key]
        state["logged_steps"] = trainer.fit_loop.epoch_loop._batches_that_stepped
        state["points"] = {type(x).__name__: x.points for x in trainer.loggers if hasattr(x, "points")}
        state.update(configured=self._configured, place=read_position(self._place, self._moment))
        state[DATA_KEY] = self._data.splits(trainer)
        if self._moment is Moment.END and trainer.should_stop:
            state["ended"] = self.limits
        state.update(self._accumulated.read(trainer, pl_module))
        metrics = trainer._logger_connector._callback_metrics
        state["callback_metrics"] = {name: value.cpu() for name, value in metrics.items()}
        if self._moment is not None:
            write_progress(checkpoint["loops"]["fit_loop"], self._moment, self._loader_states)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Keep the state until training starts."""
        state = self._state_in(checkpoint)
        if trainer.state.fn == "fit" and state is not None:
            self._compare_data(trainer, state)
            self._restored = state


def _resume_command(run: RunDirectory) -> str:
    return f"{program('cbam-lightning')} resume {shlex.quote(str(run.path))}"
