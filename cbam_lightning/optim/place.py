"""The place in a training and the training's length, both in epochs, whatever its steps are made of.

The length of an epoch is that of the data loader (``steps_per_epoch``): reading
``trainer.estimated_stepping_batches`` would build the loaders early, and Lightning would forget their
state on resume (https://github.com/Lightning-AI/pytorch-lightning/issues/20550).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import truediv
from typing import Any

from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DistributedSampler


@dataclass(frozen=True)
class Seam:
    """Where a run was continued in mid-epoch with other batches or steps.

    Attributes:
        epoch: Number of the epoch.
        done: Fraction of the epoch that was done.
        batch: Number of the first batch that followed.
    """

    epoch: int
    done: float
    batch: int


class TrainingPlace:
    """The place of a run in its training, for a schedule.

    All steps of an epoch count alike, but for the rest of an epoch that was continued with other batches.

    Args:
        trainer: The trainer.

    Attributes:
        seam: Where the run was last continued in mid-epoch with other batches or steps, if it was.
        share_since: Returns which share, in [0, 1], of the rest of the epoch after ``seam`` is done, from the
            number of batches since and of all that followed.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.seam: Seam | None = None
        self.share_since: Callable[[int, int], float] = truediv

    @property
    def epochs(self) -> float:
        """Epochs that are done, including fractions; whole ones if the data have no length."""
        is_last = self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return float(self._epoch + 1) if self._ready and is_last else self.epochs_after(self._ready)

    def epochs_after(self, ready: int) -> float:
        """Return the epochs that are done after some batches of this epoch."""
        epoch, num_batches = self._epoch, self.trainer.num_training_batches
        if math.isinf(num_batches):
            return float(epoch)
        if ready >= num_batches:
            return float(epoch + 1)
        # Fewer images than one of the new batches may be done, so the seam may be at batch 0.
        if self.seam is not None and self.seam.epoch == epoch:
            since, rest = ready - self.seam.batch, int(num_batches) - self.seam.batch
            return epoch + self.seam.done + (1 - self.seam.done) * self.share_since(since, rest)
        return (epoch * self._steps(epoch) + self._step(ready)) / self._steps(epoch)

    @property
    def max_epochs(self) -> float:
        """Length of the training in epochs; ``inf`` if it has no end.

        With ``max_steps``, it follows from the steps that are left: those before may have been larger.
        """
        trainer, epoch = self.trainer, self._epoch
        if trainer.max_steps == -1 or math.isinf(trainer.num_training_batches):
            return max_epochs(trainer, math.inf)
        all_alike = epoch * self._steps(epoch) + self._step(self._ready) == trainer.global_step
        if all_alike and not self._changes:
            return max_epochs(trainer, self._steps(epoch))
        return min(max_epochs(trainer, math.inf), self._after(trainer.max_steps - trainer.global_step))

    def _after(self, steps: int) -> float:
        """Return the place after some further optimiser steps."""
        place, epoch, rest = self.epochs, self._epoch, self._steps(self._epoch) - self._step(self._ready)
        if steps <= rest:
            return place + (epoch + 1 - place) * max(steps, 0) / max(rest, 1)
        epoch, steps = epoch + 1, steps - rest
        while steps > self._steps(epoch) and epoch < max(self._changes, default=0):
            epoch, steps = epoch + 1, steps - self._steps(epoch)
        return epoch + steps / self._steps(epoch)

    @property
    def _epoch(self) -> int:
        return current_epoch(self.trainer)

    @property
    def _ready(self) -> int:
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    @property
    def _changes(self) -> list[int]:
        """The epochs from which another number of batches is accumulated."""
        scheduler = _accumulation_scheduler(self.trainer)
        return [] if scheduler is None else [epoch for epoch in scheduler.epochs if epoch > 0]

    def _step(self, ready: int) -> int:
        """Return the number of optimiser steps in some batches of this epoch."""
        return -(-ready // accumulated_batches(self.trainer, self._epoch))

    def _steps(self, epoch: int) -> int:
        """Return the number of optimiser steps of an epoch."""
        return max(1, -(-int(self.trainer.num_training_batches) // accumulated_batches(self.trainer, epoch)))


def current_epoch(trainer: Trainer) -> int:
    """Return the number of whole epochs that are done, also while a run is being resumed.

    ``trainer.current_epoch`` is not up to date then.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)


def accumulated_batches(trainer: Trainer, epoch: int) -> int:
    """Return the number of batches of an optimiser step in an epoch."""
    scheduler = _accumulation_scheduler(trainer)
    return (
        trainer.accumulate_grad_batches if scheduler is None else scheduler.get_accumulate_grad_batches(epoch)
    )


def _accumulation_scheduler(trainer: Trainer) -> GradientAccumulationScheduler | None:
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return next((c for c in callbacks if isinstance(c, GradientAccumulationScheduler)), None)


def steps_per_epoch(trainer: Trainer) -> float:
    """Return the number of optimiser steps in an epoch, on this process.

    Args:
        trainer: The trainer, with its data attached, as in ``configure_optimizers``.

    Returns:
        At least 1: the length of the longest loader divided by the number of processes, limited by
        ``limit_train_batches``, and divided by the accumulated batches of the first epoch; ``inf`` if a
        loader has no length and ``limit_train_batches`` is not a number of batches.
    """
    data = trainer.fit_loop._data_source.dataloader()
    loaders = (data if isinstance(data, CombinedLoader) else CombinedLoader(data)).flattened
    batches = max(_num_batches(loader, trainer.world_size) for loader in loaders)
    limit = trainer.limit_train_batches
    if isinstance(limit, int):
        batches = min(batches, limit)
    elif limit is not None and not math.isinf(batches):
        batches = int(batches * limit)
    steps = batches / accumulated_batches(trainer, 0)
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
