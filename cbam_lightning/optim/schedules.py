"""Learning-rate schedules as pure functions of training progress, measured in epochs.

A schedule does not know the trainer. The length of an epoch is that of the data loader (``steps_per_epoch``):
reading ``trainer.estimated_stepping_batches`` would build the loaders early, and Lightning would forget their
state on resume (https://github.com/Lightning-AI/pytorch-lightning/issues/20550).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LRSchedulerCallable
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DistributedSampler

from cbam_lightning.errors import UsageError


class Schedule(ABC):
    """Base class of the learning-rate schedules."""

    @abstractmethod
    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the schedule to an optimiser.

        Args:
            optimizer: The optimiser; its learning rates are the peak.
            steps_per_epoch: Optimiser steps in one epoch; ``inf`` if unknown.
            max_epochs: Length of the run in epochs; ``inf`` if it has no end.

        Returns:
            Lightning's ``lr_scheduler`` configuration.
        """


class _FactorLR(LambdaLR):
    """A ``LambdaLR`` that does not change parameter groups that an optimiser gets later."""

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group."""
        own = super().get_lr()
        return own + [group["lr"] for group in self.optimizer.param_groups[len(own) :]]


class _FactorSchedule(Schedule):
    """The peak learning rate times a factor that depends on the number of completed epochs."""

    def __init__(
        self, warmup_epochs: float, warmup_factor: float, interval: Literal["step", "epoch"]
    ) -> None:
        if warmup_epochs < 0 or not 0 <= warmup_factor <= 1:
            raise UsageError(
                f"warmup_epochs is {warmup_epochs} and warmup_factor {warmup_factor}; "
                "allowed: 0 or more epochs, a factor from 0 to 1."
            )
        self.warmup_epochs = warmup_epochs
        self.warmup_factor = warmup_factor
        self.interval = interval

    @abstractmethod
    def _decay(self, epoch: float, max_epochs: float) -> float:
        """Return the factor in [0, 1] after warm-up."""

    def factor(self, epoch: float, max_epochs: float) -> float:
        """Return the factor of the peak learning rate.

        Args:
            epoch: Completed epochs, including fractions.
            max_epochs: Length of the run in epochs.

        Returns:
            A factor in [0, 1]: linear from ``warmup_factor`` to 1 during warm-up, then the decay.
        """
        if epoch < self.warmup_epochs:
            return self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs
        return self._decay(epoch, max_epochs)

    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the schedule as a ``LambdaLR``, whose only state is its number of steps.

        Raises:
            UsageError: The rate changes after every step, and the length of an epoch is unknown.
        """
        changes = not isinstance(self, Constant) or self.warmup_epochs
        if self.interval == "step" and changes and math.isinf(steps_per_epoch):
            raise UsageError(
                f"{type(self).__name__} counts in epochs, and the data have no length: set "
                "--trainer.limit_train_batches to a number of batches, or use --model.schedule Constant."
            )
        unit = steps_per_epoch if self.interval == "step" else 1
        scheduler = _FactorLR(optimizer, lambda count: self.factor(count / unit, max_epochs))
        return {"scheduler": scheduler, "interval": self.interval}


class WarmupCosine(_FactorSchedule):
    """Linear warm-up, then half a cosine down to ``final_factor`` (https://arxiv.org/abs/1608.03983, eq. 5).

    Args:
        warmup_epochs: Length of the warm-up, fractions allowed.
        warmup_factor: Initial learning rate of the warm-up, as a fraction of the peak.
        final_factor: Learning rate at the end of the cosine, as a fraction of the peak.
        interval: Whether the rate changes after every optimiser step or after every epoch.
    """

    def __init__(
        self,
        warmup_epochs: float = 1.0,
        warmup_factor: float = 0.01,
        final_factor: float = 0.0,
        interval: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(warmup_epochs, warmup_factor, interval)
        self.final_factor = final_factor

    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the schedule.

        Raises:
            UsageError: The run has no end.
        """
        if math.isinf(max_epochs):
            raise UsageError("WarmupCosine needs an end: set --trainer.max_epochs or --trainer.max_steps.")
        return super().build(optimizer, steps_per_epoch, max_epochs)

    def _decay(self, epoch: float, max_epochs: float) -> float:
        length = max(max_epochs - self.warmup_epochs, 1e-12)
        progress = min(max((epoch - self.warmup_epochs) / length, 0.0), 1.0)
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class MultiStep(_FactorSchedule):
    """The learning rate times ``gamma`` at each milestone; the defaults are the authors' recipe.

    Args:
        milestones_epochs: Numbers of epochs.
        gamma: The factor at each milestone.
        warmup_epochs: Length of the linear warm-up, fractions allowed.
        warmup_factor: Initial learning rate of the warm-up, as a fraction of the peak.
        interval: Whether the rate changes after every optimiser step or after every epoch.
    """

    def __init__(
        self,
        milestones_epochs: Sequence[float] = (30, 60, 90),
        gamma: float = 0.1,
        warmup_epochs: float = 0.0,
        warmup_factor: float = 0.01,
        interval: Literal["step", "epoch"] = "epoch",
    ) -> None:
        super().__init__(warmup_epochs, warmup_factor, interval)
        self.milestones_epochs = sorted(milestones_epochs)
        self.gamma = gamma

    def _decay(self, epoch: float, max_epochs: float) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones_epochs)


class Constant(_FactorSchedule):
    """A constant learning rate, optionally after a linear warm-up.

    Args:
        warmup_epochs: Length of the warm-up, fractions allowed.
        warmup_factor: Initial learning rate of the warm-up, as a fraction of the peak.
    """

    def __init__(self, warmup_epochs: float = 0.0, warmup_factor: float = 0.01) -> None:
        super().__init__(warmup_epochs, warmup_factor, "step")

    def _decay(self, epoch: float, max_epochs: float) -> float:
        return 1.0


class TorchSchedule(Schedule):
    """Any learning-rate scheduler of ``torch.optim.lr_scheduler``.

    Args:
        scheduler: A scheduler class and its options, without the optimiser.
        interval: Whether to step it after every optimiser step or after every epoch.
        monitor: The metric that ``ReduceLROnPlateau`` monitors.
    """

    def __init__(
        self,
        scheduler: LRSchedulerCallable,
        interval: Literal["step", "epoch"] = "epoch",
        monitor: str = "val/loss",
    ) -> None:
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor

    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the scheduler."""
        scheduler = self.scheduler(optimizer)
        return {"scheduler": scheduler, "interval": self.interval, "monitor": self.monitor}


def steps_per_epoch(trainer: Trainer) -> float:
    """Return the number of optimiser steps in an epoch, on this process.

    Args:
        trainer: The trainer, with its data attached, as in ``configure_optimizers``.

    Returns:
        At least 1: the length of the longest loader divided by the number of processes, limited by
        ``limit_train_batches``, and divided by ``accumulate_grad_batches``; ``inf`` if a loader has no length
        and ``limit_train_batches`` is not a number of batches.
    """
    data = trainer.fit_loop._data_source.dataloader()
    loaders = (data if isinstance(data, CombinedLoader) else CombinedLoader(data)).flattened
    batches = max(_num_batches(loader, trainer.world_size) for loader in loaders)
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        batches = min(batches, limit)
    elif limit is not None and not math.isinf(batches):
        batches = int(batches * limit)
    steps = batches / trainer.accumulate_grad_batches
    return steps if math.isinf(steps) else max(1, math.ceil(steps))


def _num_batches(loader: Any, world_size: int) -> float:
    """Return the number of batches on this process."""
    length = sized_len(loader)
    if length is None:
        return math.inf
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        return length
    # the sampler that Lightning inserts gives each process ceil(M / world_size) samples
    if getattr(loader, "drop_last", False) and sized_len(loader.sampler) is not None:
        return int(math.ceil(len(loader.sampler) / world_size) // loader.batch_size)
    return math.ceil(length / world_size)


def max_epochs(trainer: Trainer, steps: float) -> float:
    """Return the length of the run in epochs, by whichever of ``max_epochs`` and ``max_steps`` comes first.

    Args:
        trainer: The trainer.
        steps: Optimiser steps in one epoch.

    Returns:
        Epochs, including fractions; ``inf`` if the run has no end.
    """
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    return epochs if trainer.max_steps == -1 or math.isinf(steps) else min(epochs, trainer.max_steps / steps)
