"""Learning-rate schedules as pure functions of training progress, measured in epochs.

A schedule does not know the trainer. It counts its steps, or follows a place (``TrainingPlace``), which is
right also after the batches of a run have changed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from pytorch_lightning.cli import LRSchedulerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

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


class Place(Protocol):
    """A place in a training."""

    @property
    def epochs(self) -> float:
        """Epochs that are done, including fractions."""

    @property
    def max_epochs(self) -> float:
        """Length of the training in epochs."""


class FactorLR(LRScheduler):
    """The peak learning rate times a factor of the place in the training; it counts steps until it has one.

    It does not change parameter groups that the optimiser gets later.

    Args:
        optimizer: The optimiser; its learning rates are the peak.
        factor: Returns the factor from the epochs done and the length of the training in epochs.
        unit: Steps of this scheduler in an epoch.
        max_epochs: Length of the training in epochs.

    Attributes:
        place: The place to follow instead of counting.
    """

    def __init__(
        self, optimizer: Optimizer, factor: Callable[[float, float], float], unit: float, max_epochs: float
    ) -> None:
        self._factor, self._unit, self._max_epochs = factor, unit, max_epochs
        self.place: Place | None = None
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group."""
        if self.place is None:
            factor = self._factor(self.last_epoch / self._unit, self._max_epochs)
        else:
            factor = self._factor(self.place.epochs, self.place.max_epochs)
        own = [peak * factor for peak in self.base_lrs]
        return own + [group["lr"] for group in self.optimizer.param_groups[len(own) :]]

    def correct_rates(self) -> None:
        """Set the learning rates of the present place, if they are others than the last ones."""
        rates = self.get_lr()
        if rates != self._last_lr:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self._last_lr = rates

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the rates; all else is configured anew."""
        configured = ("_factor", "_unit", "_max_epochs", "place")
        return {key: value for key, value in super().state_dict().items() if key not in configured}


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
        """Attach the schedule as a ``FactorLR``.

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
        scheduler = FactorLR(optimizer, self._factor_at, unit, max_epochs)
        return {"scheduler": scheduler, "interval": self.interval}

    def _factor_at(self, epoch: float, max_epochs: float) -> float:
        return self.factor(epoch if self.interval == "step" else math.floor(epoch), max_epochs)


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
        monitor: The metric that ``ReduceLROnPlateau`` monitors. Default: that of Lightning's class of this
            name, which has an option for it, or ``val/loss``.
    """

    def __init__(
        self,
        scheduler: LRSchedulerCallable,
        interval: Literal["step", "epoch"] = "epoch",
        monitor: str | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor

    def build(self, optimizer: Optimizer, steps_per_epoch: float, max_epochs: float) -> dict[str, Any]:
        """Attach the scheduler.

        Raises:
            UsageError: It ends before the run, or it has a metric of its own and another one is given.
        """
        scheduler = self.scheduler(optimizer)
        steps = max_epochs * (steps_per_epoch if self.interval == "step" else 1)
        last = getattr(scheduler, "total_steps", None)  # of OneCycleLR, which fails after it
        if last is not None and math.isfinite(steps) and steps > last:
            raise UsageError(
                f"--model.schedule.scheduler.total_steps is {last}, and is stepped {math.ceil(steps)} times "
                f"in this run, once every {self.interval}; give at least that."
            )
        own = getattr(scheduler, "monitor", None)
        if self.monitor and own and self.monitor != own:
            raise UsageError(
                f"--model.schedule.monitor is {self.monitor!r}, and --model.schedule.scheduler.monitor is "
                f"{own!r}; give one of them."
            )
        monitor = self.monitor or own or "val/loss"
        return {"scheduler": scheduler, "interval": self.interval, "monitor": monitor}
