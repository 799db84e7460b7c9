"""What the LightningModules share: what is trained and how fast, and what a checkpoint has to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from cbam_lightning.callbacks.gradual_unfreezing import divide_by_stage
from cbam_lightning.data.data_module import BaseDataModule
from cbam_lightning.errors import UsageError
from cbam_lightning.optim.parameter_groups import backbone_modules, parameter_groups, scale_learning_rate
from cbam_lightning.optim.parameter_groups import freeze as freeze_modules
from cbam_lightning.optim.schedules import Schedule, WarmupCosine, max_epochs, steps_per_epoch
from cbam_lightning.user_code.class_paths import importing_nothing
from cbam_lightning.weights import read_training_state
from cbam_lightning.weights.compatibility import require_known_classes, require_same_network


class ImageTask(LightningModule):
    """Base of the LightningModules; the arguments are explained where they are taken.

    Attributes:
        monitor: The figure by which a checkpoint is the best, larger is better.
        data_class: Of our data modules, those whose batches it can be trained on.
        network: The network, once the subclass has built it.
    """

    monitor: ClassVar[str]
    data_class: ClassVar[type[BaseDataModule]]
    network: nn.Module

    def __init__(
        self,
        optimizer: OptimizerCallable,
        schedule: Schedule | None,
        lr_batch_size: int | None,
        decay_norm_and_bias: bool,
    ) -> None:
        super().__init__()
        if lr_batch_size is not None and lr_batch_size < 1:
            message = f"lr_batch_size is {lr_batch_size}; allowed: 1 or more, or null."
            raise UsageError(message)
        self.optimizer = optimizer
        self.schedule = schedule
        self.lr_batch_size = lr_batch_size
        self.decay_norm_and_bias = decay_norm_and_bias
        self._new_classifier: str | None = None
        self._frozen: list[nn.Module] = []
        self._found_lr: float | None = None

    @property
    def lr(self) -> float | None:
        """What ``LearningRateFinder`` found; it takes the place of the optimiser's own learning rate."""
        return self._found_lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._found_lr = value
        self.trainer.strategy.setup_optimizers(self.trainer)  # the schedule has to start from it

    @property
    def backbone(self) -> nn.ModuleList:
        """Everything but the classifier, as ``BackboneFinetuning`` asks for; registered nowhere else."""
        return nn.ModuleList(backbone_modules(self.network))

    def complete_hyperparameters(self, names: Mapping[str, Any]) -> None:
        """Make the hyperparameters plain and complete, so that a checkpoint needs no other file.

        Args:
            names: What the network came to: its name, its attention, and the options of both.
        """
        # the values live in the checkpoint from now on; the file they came from may be gone by then
        self.hparams.update(names, weights=None)
        # options with a class are plain under the command, and objects when called from Python, which no
        # checkpoint may hold
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            self.hparams.pop(name)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Do what Lightning's does, but import nothing that the checkpoint names.

        Raises:
            UsageError: It names a class whose module is not imported.
        """
        if isinstance(checkpoint_path, (str, Path)) and Path(checkpoint_path).is_file():
            known = read_training_state(checkpoint_path).get("hyper_parameters", {})
            require_known_classes(known, str(checkpoint_path))
        with importing_nothing():
            loaded: Self = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return loaded

    def freeze_network(self, pattern: str | None) -> None:
        """Stop the training of the modules that a pattern names; ``None`` names none."""
        self._frozen = freeze_modules(self.network, pattern) if pattern else []

    def setup(self, stage: str) -> None:
        """Refuse data of another task; a training gives a new classifier its values.

        Raises:
            UsageError: The data have boxes and the network classifies, or the other way round.
        """
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, BaseDataModule) and not isinstance(data, self.data_class):
            message = (
                f"{type(self).__name__} takes the batches of a {self.data_class.__name__}, and "
                f"{type(data).__name__} is none: --model Detector is for data with boxes, "
                "--model Classifier for images with one class each."
            )
            raise UsageError(message)
        if stage == "fit":
            self._new_classifier = None

    def on_validation_start(self) -> None:
        """Refuse to evaluate a classifier that was never trained; a checkpoint is loaded by now.

        Raises:
            UsageError: The weights' classes differ from the data's and neither training nor a checkpoint
                came since.
        """
        if self._new_classifier:
            message = f"{self._new_classifier}: fine-tune it first (`cbam-lightning fit --model.weights …`)."
            raise UsageError(message)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network or of other classes before any value is loaded.

        Raises:
            UsageError: Says what differs.
        """
        require_same_network(checkpoint.get("hyper_parameters", {}), self.hparams)
        self._new_classifier = None

    def on_train_start(self) -> None:
        """Put frozen modules into evaluation mode; the trainer keeps the mode it finds them in."""
        for module in self._frozen:
            module.eval()
        if self._found_lr is not None:  # which Lightning has just set, whatever the schedule starts with
            for config in self.trainer.lr_scheduler_configs:
                scheduler = config.scheduler
                for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                    group["lr"] = lr

    def train(self, mode: bool = True) -> Self:
        """Switch to training, except for frozen modules, whose running statistics have to stay."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def no_images(self) -> dict[str, Tensor] | None:
        """Skip a batch of unreadable images; other devices still wait for this one's gradients."""
        if self.trainer.world_size == 1:
            return None
        parameters = [p.sum() for p in self.network.parameters() if p.requires_grad]
        return {"loss": 0 * torch.stack(parameters).sum()}

    def configure_optimizers(self) -> Any:
        """Build the optimiser over what is not frozen, and the schedule over the length of the training."""
        optimizer = self.optimizer(parameter_groups(self.network, self.decay_norm_and_bias))
        if self._found_lr is None:
            scale_learning_rate(optimizer, self.trainer, self.lr_batch_size)
        else:
            for group in optimizer.param_groups:
                group["lr"] = self._found_lr
        divide_by_stage(optimizer, self.trainer)
        schedule = self.schedule or WarmupCosine()
        steps = steps_per_epoch(self.trainer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": schedule.build(optimizer, steps, max_epochs(self.trainer, steps)),
        }


def _is_plain(value: Any) -> bool:
    """Tell whether a checkpoint may hold a value: numbers, texts and tensors, in lists and dictionaries."""
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, Tensor))
