"""Base class of the tasks: optimiser, frozen parts, checkpoints, and what the command adds for a task."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from cbam_lightning.callbacks.gradual_unfreezing import divide_by_stage
from cbam_lightning.callbacks.predictions import PredictionWriter
from cbam_lightning.callbacks.raw_predictions import RawPredictions
from cbam_lightning.callbacks.step_log import StepLog
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.data.data_module import BaseDataModule
from cbam_lightning.errors import UsageError
from cbam_lightning.optim.parameter_groups import backbone_modules, parameter_groups, scale_learning_rate
from cbam_lightning.optim.parameter_groups import freeze as freeze_modules
from cbam_lightning.optim.place import TrainingPlace, max_epochs, steps_per_epoch
from cbam_lightning.optim.schedules import FactorLR, Schedule, WarmupCosine
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.next_steps import sharing
from cbam_lightning.runs.plain import plain_copy
from cbam_lightning.user_code.class_paths import importing_nothing
from cbam_lightning.weights import read_training_state
from cbam_lightning.weights.compatibility import require_known_classes, require_same_network
from cbam_lightning.weights.loading import follow_attention


class ImageTask(LightningModule):
    """Base of the LightningModules; subclasses document the arguments.

    A new task sets ``monitor`` and ``data_class``, builds ``network``, defines ``training_step``,
    ``evaluation_step``, ``log_evaluation`` and ``predict_step``, and overrides ``picture_callback``,
    ``prediction_writer`` and ``next_steps`` as needed.

    Attributes:
        monitor: The metric that selects the best checkpoint, larger is better.
        data_class: Base class of the data modules whose batches the task takes.
        required_from_data: Options that have no usable default: the data or the user must give them.
        network: The network, once the subclass has built it.
    """

    monitor: ClassVar[str]
    data_class: ClassVar[type[BaseDataModule]]
    required_from_data: ClassVar[tuple[str, ...]] = ("num_classes", "in_channels")
    network: nn.Module

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let pickle, as of a process that is started anew, find the default optimiser by its name.

        It is a ``lambda`` because the command reads its class and options from that.
        """
        super().__init_subclass__(**kwargs)
        default: Any = getattr(inspect.signature(cls).parameters.get("optimizer"), "default", None)
        if "__init__" in vars(cls) and inspect.isfunction(default):
            default.__qualname__ = f"{cls.__qualname__}.default_optimizer"
            cls.default_optimizer = staticmethod(default)  # type: ignore[attr-defined]

    def __init__(
        self,
        optimizer: OptimizerCallable,
        schedule: Schedule | None,
        lr_batch_size: int | None,
        decay_norm_and_bias: bool,
    ) -> None:
        super().__init__()
        if lr_batch_size is not None and lr_batch_size < 1:
            raise UsageError(f"lr_batch_size is {lr_batch_size}; allowed: 1 or more, or null.")
        self.optimizer = optimizer
        self.schedule = schedule
        self.lr_batch_size = lr_batch_size
        self.decay_norm_and_bias = decay_norm_and_bias
        self._new_classifier: str | None = None
        self._frozen: list[nn.Module] = []
        self._found_lr: float | None = None
        self._batch_size: int | None = None
        self._step_log = StepLog()

    @property
    def lr(self) -> float | None:
        """The learning rate that ``LearningRateFinder`` found; it replaces that of the optimiser."""
        return self._found_lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._found_lr = value
        self.trainer.strategy.setup_optimizers(self.trainer)  # the schedule has to start from it

    @property
    def backbone(self) -> nn.ModuleList:
        """Everything but the classifier, as ``BackboneFinetuning`` expects it; registered nowhere else."""
        return nn.ModuleList(backbone_modules(self.network))

    def complete_hyperparameters(self, names: Mapping[str, Any]) -> None:
        """Make the hyperparameters plain and complete, so that a checkpoint needs no other file.

        Args:
            names: The resolved name of the network, its attention, and the options of both.
        """
        # the checkpoint has the values; the file of the weights may be gone when it is loaded
        self.hparams.update(names, weights=None)
        # options that are classes are plain under the command; from Python they are objects, which a
        # checkpoint must not hold
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            self.hparams.pop(name)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint as Lightning does, but import nothing that it names.

        Raises:
            UsageError: The checkpoint names a class whose module is not imported.
        """
        if isinstance(checkpoint_path, (str, Path)) and Path(checkpoint_path).is_file():
            known = read_training_state(checkpoint_path).get("hyper_parameters", {})
            require_known_classes(known, str(checkpoint_path))
        with importing_nothing():
            loaded: Self = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return loaded

    def freeze_network(self, pattern: str | None) -> None:
        """Freeze the modules that match a pattern; ``None``: none."""
        self._frozen = freeze_modules(self.network, pattern) if pattern else []

    def configure_callbacks(self) -> list[Callback]:
        """Return what seeds every training step, unless the trainer has it already."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [] if any(isinstance(callback, StepSeeds) for callback in callbacks) else [StepSeeds()]

    def picture_callback(self, run: RunDirectory) -> Callback | None:
        """Return the callback that draws the task's results in a run of the command, if there is one."""
        return None

    def prediction_writer(self, run: RunDirectory) -> PredictionWriter:
        """Return the callback that writes the predictions of ``cbam-lightning predict``."""
        return RawPredictions(run)

    def next_steps(self, run: RunDirectory, checkpoint: Path) -> list[str]:
        """Return lines for the end of a run: what to do with its best checkpoint."""
        return sharing(run, checkpoint, self.hparams)

    def setup(self, stage: str) -> None:
        """Refuse data of another task.

        Raises:
            UsageError: The data have boxes and the network classifies, or vice versa.
        """
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, BaseDataModule) and not isinstance(data, self.data_class):
            raise UsageError(
                f"{type(self).__name__} takes the batches of a {self.data_class.__name__}, and "
                f"{type(data).__name__} is not one: --model Detector is for data with boxes, "
                "--model Classifier for images with one class each."
            )
        if stage == "fit":
            self._new_classifier = None

    def on_fit_start(self) -> None:
        """Configure the optimiser again if ``BatchSizeFinder`` has just changed the size of a step."""
        if self._batch_size != self._found_batch_size():
            self.trainer.strategy.setup_optimizers(self.trainer)

    def _found_batch_size(self) -> Any:
        return getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)

    def on_validation_start(self) -> None:
        """Refuse to evaluate a classifier that was never trained; checkpoints are loaded before.

        Raises:
            UsageError: The classes of the weights differ from those of the data, and the classifier was
                neither trained nor loaded since.
        """
        if self._new_classifier:
            raise UsageError(f"{self._new_classifier}: fine-tune it first (`fit --model.weights …`).")

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network or of other classes before any value is loaded.

        Attention that an earlier version saved under another name is renamed.

        Raises:
            UsageError: Says what differs.
        """
        require_same_network(checkpoint.get("hyper_parameters", {}), self.hparams)
        for key in ("state_dict", "current_model_state"):  # the second beside a moving average
            if key in checkpoint:
                checkpoint[key] = follow_attention(checkpoint[key], self.state_dict())
        self._new_classifier = None

    def on_train_start(self) -> None:
        """Put frozen modules into evaluation mode, in which the trainer then keeps them."""
        for module in self._frozen:
            module.eval()
        if self._found_lr is not None:  # Lightning has just set it, whatever the schedule starts with
            for config in self.trainer.lr_scheduler_configs:
                scheduler = config.scheduler
                for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                    group["lr"] = lr

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for frozen modules, whose running statistics must not change."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def log_step(self, values: Mapping[str, Tensor]) -> None:
        """Log values of a training batch without reading them, and show the first in the progress bar.

        They are averaged over processes, as with ``self.log(..., sync_dist=True)``, but only in steps in
        which a logger or a callback looks at them.

        Args:
            values: Scalars by name; the names are the same in every step.
        """
        self._step_log.log(self, values)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the values of the last step of a training that a callback has just stopped."""
        self._step_log.catch_up(self)

    @abstractmethod
    def evaluation_step(self, batch: Any, split: str) -> dict[str, Any] | None:
        """Evaluate a batch; ``split`` is ``val`` or ``test``. Returns what callbacks see as ``outputs``."""

    @abstractmethod
    def log_evaluation(self, split: str) -> None:
        """Log the metrics of a split, ``val`` or ``test``, once all its batches are evaluated."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Evaluate a validation batch."""
        return self.evaluation_step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation."""
        self.log_evaluation("val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Evaluate a test batch."""
        return self.evaluation_step(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self.log_evaluation("test")

    def no_images(self) -> dict[str, Tensor] | None:
        """Skip a batch without readable images; other devices still wait for what this one has to share.

        Its loss is 0, also in what is logged: the devices minimise the mean of their losses.
        """
        if self.trainer.world_size == 1:
            return None
        parameters = [p.sum() for p in self.network.parameters() if p.requires_grad]
        loss = 0 * torch.stack(parameters).sum()
        self.log_step(dict.fromkeys(self._step_log.names or ("train/loss",), loss))
        return {"loss": loss}

    def configure_optimizers(self) -> Any:
        """Build the optimiser of what is not frozen, and the schedule over the length of the run."""
        self._batch_size = self._found_batch_size()
        optimizer = self.optimizer(parameter_groups(self.network, self.decay_norm_and_bias))
        if self._found_lr is None:
            scale_learning_rate(optimizer, self.trainer, self.lr_batch_size)
        else:
            for group in optimizer.param_groups:
                group["lr"] = self._found_lr
        divide_by_stage(optimizer, self.trainer)
        schedule = self.schedule or WarmupCosine()
        steps = steps_per_epoch(self.trainer)
        length = max_epochs(self.trainer, steps)
        config = schedule.build(optimizer, steps, length)
        is_trial = bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        if (unreached := schedule.unreached(length)) and not is_trial:
            rank_zero_warn(unreached)
        if isinstance(config["scheduler"], FactorLR):
            config["scheduler"].place = TrainingPlace(self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": config}


def _is_plain(value: Any) -> bool:
    """Return whether a checkpoint may hold a value."""
    try:
        plain_copy(value)
    except TypeError:
        return False
    return True
