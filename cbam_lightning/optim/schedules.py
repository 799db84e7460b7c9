"""Learning-rate schedules as pure functions of training progress, measured in epochs.

A schedule knows nothing of the trainer. How long an epoch is comes from the data loader's own length
(``steps_per_epoch``): reading ``trainer.estimated_stepping_batches`` would build the loaders early and make
Lightning forget their state on resume (https://github.com/Lightning-AI/pytorch-lightning/issues/20550).
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
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DistributedSampler

from cbam_lightning.errors import UsageError


class Schedule(ABC):
    """What the learning rate does while training goes on."""

    @abstractmethod
    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the schedule to an optimiser.

        Args:
            optimizer: Its learning rates are the peak.
            steps_per_epoch: Optimiser steps in one epoch; ``inf`` if the data do not say.
            max_epochs: Length of the whole training in epochs; ``inf`` if it is open.

        Returns:
            Lightning's ``lr_scheduler`` configuration.
        """


class _FactorLR(LambdaLR):
    """A ``LambdaLR`` that leaves alone the groups of parameters that an optimiser gets later."""

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group."""
        own = super().get_lr()
        return own + [group["lr"] for group in self.optimizer.param_groups[len(own) :]]


class _FactorSchedule(Schedule):
    """The peak learning rate times a factor that depends on the number of epochs done."""

    def __init__(
        self, warmup_epochs: float, warmup_factor: float, interval: Literal["step", "epoch"]
    ) -> None:
        if warmup_epochs < 0 or not 0 <= warmup_factor <= 1:
            message = (
                f"warmup_epochs is {warmup_epochs} and warmup_factor {warmup_factor}; "
                "allowed: 0 or more epochs, a factor from 0 to 1."
            )
            raise UsageError(message)
        self.warmup_epochs = warmup_epochs
        self.warmup_factor = warmup_factor
        self.interval = interval

    @abstractmethod
    def _decay(self, epoch: float, max_epochs: float) -> float:
        """Return the factor in [0, 1] after warm-up."""

    def factor(self, epoch: float, max_epochs: float) -> float:
        """Return what the peak learning rate is multiplied with.

        Args:
            epoch: Epochs done, fractions included.
            max_epochs: Length of the training in epochs.

        Returns:
            A factor in [0, 1]: linear from ``warmup_factor`` to 1 during warm-up, then the decay.
        """
        if epoch < self.warmup_epochs:
            return self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs
        return self._decay(epoch, max_epochs)

    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the schedule as a ``LambdaLR``, whose state is the count of its steps alone.

        Raises:
            UsageError: It changes after every step by the share of the epoch, and nobody knows the epoch.
        """
        changes = not isinstance(self, Constant) or self.warmup_epochs
        if self.interval == "step" and changes and math.isinf(steps_per_epoch):
            message = (
                f"{type(self).__name__} counts in epochs, and the data do not say how long one is: set "
                "--trainer.limit_train_batches to a number of batches, or take --model.schedule Constant."
            )
            raise UsageError(message)
        unit = steps_per_epoch if self.interval == "step" else 1
        scheduler = _FactorLR(optimizer, lambda count: self.factor(count / unit, max_epochs))
        return {"scheduler": scheduler, "interval": self.interval}


class WarmupCosine(_FactorSchedule):
    """Linear warm-up, then half a cosine down to ``final_factor`` (https://arxiv.org/abs/1608.03983, eq. 5).

    Args:
        warmup_epochs: Length of the warm-up, fractions allowed.
        warmup_factor: Where warm-up starts, as a part of the peak learning rate.
        final_factor: Where the cosine ends, as a part of the peak learning rate.
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
        """Attach the schedule; it has to know where training ends.

        Raises:
            UsageError: The training has no end.
        """
        if math.isinf(max_epochs):
            message = "WarmupCosine ends with the training: set --trainer.max_epochs or --trainer.max_steps."
            raise UsageError(message)
        return super().build(optimizer, steps_per_epoch, max_epochs)

    def _decay(self, epoch: float, max_epochs: float) -> float:
        length = max(max_epochs - self.warmup_epochs, 1e-12)
        progress = min(max((epoch - self.warmup_epochs) / length, 0.0), 1.0)
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class MultiStep(_FactorSchedule):
    """The learning rate times ``gamma`` at each milestone: the authors' recipe with its defaults.

    Args:
        milestones_epochs: Rising numbers of epochs.
        gamma: The factor at each milestone.
        warmup_epochs: Length of a linear warm-up before, fractions allowed.
        warmup_factor: Where warm-up starts, as a part of the peak learning rate.
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
    """The same learning rate throughout, after a linear warm-up if asked for.

    Args:
        warmup_epochs: Length of the warm-up, fractions allowed.
        warmup_factor: Where warm-up starts, as a part of the peak learning rate.
    """

    def __init__(self, warmup_epochs: float = 0.0, warmup_factor: float = 0.01) -> None:
        super().__init__(warmup_epochs, warmup_factor, "step")

    def _decay(self, epoch: float, max_epochs: float) -> float:
        return 1.0


class TorchSchedule(Schedule):
    """Any learning-rate scheduler of ``torch.optim.lr_scheduler``.

    Args:
        scheduler: A scheduler class and its options; the optimiser is filled in.
        interval: Whether to step it after every optimiser step or after every epoch.
        monitor: The metric that ``ReduceLROnPlateau`` watches.
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
        """Attach the scheduler, which counts its own steps."""
        scheduler = self.scheduler(optimizer)
        configuration: dict[str, Any] = {"scheduler": scheduler, "interval": self.interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            configuration["monitor"] = self.monitor
        return configuration


def steps_per_epoch(trainer: Trainer) -> float:
    """Return how many optimiser steps one epoch takes on this process.

    Args:
        trainer: With its data attached, as in ``configure_optimizers``.

    Returns:
        At least 1; the longest loader's length divided over the processes, limited by
        ``limit_train_batches`` and divided by ``accumulate_grad_batches``. ``inf`` where a loader has no
        length and no number of batches is its limit.
    """
    found = trainer.fit_loop._data_source.dataloader()
    loaders = (found if isinstance(found, CombinedLoader) else CombinedLoader(found)).flattened
    batches = max(_num_batches(loader, trainer.world_size) for loader in loaders)
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        batches = min(batches, limit)
    elif limit is not None and not math.isinf(batches):
        batches = int(batches * limit)
    steps = batches / trainer.accumulate_grad_batches
    return steps if math.isinf(steps) else max(1, math.ceil(steps))


def _num_batches(loader: Any, world_size: int) -> float:
    """Return the batches of this process."""
    length = sized_len(loader)
    if length is None:
        return math.inf
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        return length
    # the sampler that Lightning puts in gives each process ceil(M / world_size) samples
    if getattr(loader, "drop_last", False) and sized_len(loader.sampler) is not None:
        return int(math.ceil(len(loader.sampler) / world_size) // loader.batch_size)
    return math.ceil(length / world_size)


def max_epochs(trainer: Trainer, steps: float) -> float:
    """Return the length of the training in epochs, whichever of ``max_epochs`` and ``max_steps`` comes first.

    Args:
        trainer: Says where training ends.
        steps: Optimiser steps in one epoch.

    Returns:
        Epochs, fractions included; ``inf`` if the training has no end.
    """
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    return epochs if trainer.max_steps == -1 or math.isinf(steps) else min(epochs, trainer.max_steps / steps)
