"""The callback of exact resume: it saves, stops on signals, and restores the complete state of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.utilities import rank_zero_info

from cbam_lightning.callbacks.resume.accumulated import Accumulated, load_accumulated
from cbam_lightning.callbacks.resume.changed_options import ChangedOptions, Configured, read_configured
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.data_changes import STATE_KEY as DATA_KEY
from cbam_lightning.callbacks.resume.data_changes import DataChanges
from cbam_lightning.callbacks.resume.exact_loader import read_exactly
from cbam_lightning.callbacks.resume.moments import Moment, prepare_logging, prepare_loops, write_progress
from cbam_lightning.callbacks.resume.pauses import Pauses
from cbam_lightning.callbacks.resume.position import continue_epoch, read_position
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.optim.place import TrainingPlace, accumulated_batches
from cbam_lightning.optim.schedules import FactorLR
from cbam_lightning.runs.directory import RunDirectory

# Key of the state of ``ExactResume`` in a checkpoint: the class's first name.
STATE_KEY = "Survival"


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
        self.checkpoint_io = checkpoint_io
        self.seeds = seeds
        self.limits = limits
        self._place: TrainingPlace
        self._data = DataChanges(changed_data)
        self._configured: Configured = {}
        self._changes: ChangedOptions | None = None
        self._pauses = Pauses(run, options, checkpoint_io)
        self._accumulated = Accumulated()
        self._restored: dict[str, Any] | None = None
        self._loader_states: list[dict[str, Any]] = []

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return STATE_KEY

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the data so that any batch can be read again, and refuse others before anything is written."""
        if stage == "fit":
            # Lightning begins with the finders. What is configured is read before they change it.
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.insert(0, callbacks.pop(callbacks.index(self)))
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
        self._pauses.begin(trainer)
        if self._restored is None:
            self._read_found_size(trainer, pl_module)
            return
        self._data.compare(trainer, self._restored)
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

    def _read_found_size(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read again what is configured: schedules and learning rates may depend on the found batch size."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
            before, self._configured = self._configured, read_configured(trainer, pl_module)
            if any(isinstance(callback, LearningRateFinder) for callback in callbacks):
                self._configured["optimizers"] = before["optimizers"]  # not with the found learning rate

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
            self._pauses.pause(trainer, Moment.EPOCH)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch."""
        self._restore(trainer, pl_module)
        self._accumulated.forget()
        # in between there are accumulated gradients, which no checkpoint holds
        if batch_idx and batch_idx % trainer.accumulate_grad_batches == 0:
            self._pauses.pause_if_asked(trainer, Moment.BATCH)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss and the state of the loaders."""
        self._pauses.losses.note(trainer, outputs, batch, batch_idx)
        loader = trainer.fit_loop._combined_loader
        self._loader_states = loader._state_dicts() if loader is not None else []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may take long."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restore(trainer, pl_module)
            self._accumulated.note(pl_module)
            if not trainer.fit_loop._should_accumulate():
                self._pauses.pause(trainer, Moment.VALIDATION)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Stop on a signal during a validation, which starts again when the run is resumed."""
        fits = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fits and not trainer.fit_loop._should_accumulate():
            self._pauses.pause_if_asked(trainer, Moment.VALIDATION)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let ``ReduceLROnPlateau`` see an epoch that ends with a resumed validation like any other."""
        self._accumulated.forget()
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self._pauses.pause(trainer, Moment.END)

    def state_dict(self) -> dict[str, Any]:
        """Return the moment; ``on_save_checkpoint`` adds the rest of the state."""
        return {"moment": None if self._pauses.moment is None else str(self._pauses.moment)}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Add what Lightning leaves out."""
        self._pauses.refuse_lost_losses(trainer)
        state = checkpoint["callbacks"][self.state_key]
        state["logged_steps"] = trainer.fit_loop.epoch_loop._batches_that_stepped
        state["points"] = {type(x).__name__: x.points for x in trainer.loggers if hasattr(x, "points")}
        state.update(configured=self._configured, place=read_position(self._place, self._pauses.moment))
        state[DATA_KEY] = self._data.splits(trainer)
        if self._pauses.moment is Moment.END and trainer.should_stop:
            state["ended"] = self.limits
        state.update(self._accumulated.read(trainer, pl_module))
        metrics = trainer._logger_connector._callback_metrics
        state["callback_metrics"] = {name: value.cpu() for name, value in metrics.items()}
        if self._pauses.moment is not None:
            write_progress(checkpoint["loops"]["fit_loop"], self._pauses.moment, self._loader_states)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Keep the state until training starts."""
        state = self._state_in(checkpoint)
        if trainer.state.fn == "fit" and state is not None:
            self._compare_data(trainer, state)
            self._restored = state
