"""Images per second and peak memory of every training epoch."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cbam_lightning.callbacks.resume.processes import gather
from cbam_lightning.data.batch import plain_parts

RATE, PEAK = "train/images_per_s", "train/peak_memory_gb"


class Throughput(Callback):
    """Log ``train/images_per_s`` and ``train/peak_memory_gb`` at the end of every training epoch.

    The images are those that this training trained on, on all devices; a run that is resumed within an epoch
    does not count those before. The seconds are those of the slowest process, with loading, hooks and saves,
    but without validations and what comes after the last of them. The clock waits for the device only before
    a validation and at the end of an epoch. Counted are a ``Batch``, and a plain one of images and labels.

    The peak memory is the most, in 1e9 bytes, that tensors took at a time on one device during the epoch, its
    validation included. A CPU has none: its operating system knows only the peak since the process began.

    No two runs repeat these values to the bit, so ``fit`` leaves them out with ``--trainer.deterministic
    true``, unless this callback is asked for.
    """

    def __init__(self) -> None:
        self._images, self._seconds = 0, 0.0  # of the epoch, up to the last stop of the clock
        self._started, self._new_images = 0.0, 0  # of the clock, and since then

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also in the middle of an epoch, which a resumed run does not start."""
        self._images, self._seconds, self._new_images = 0, 0.0, 0
        memory = _memory(trainer)
        if memory is not None:
            memory.reset_peak_memory_stats(trainer.strategy.root_device)
        self._start()

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        parts = (batch.images,) if hasattr(batch, "images") else plain_parts(batch)
        self._new_images += 0 if parts is None else len(parts[0])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the processes counted."""
        self._stop(trainer)
        memory = _memory(trainer)
        peak = 0 if memory is None else memory.max_memory_allocated(trainer.strategy.root_device)
        images, seconds, peaks = zip(*gather(trainer, (self._images, self._seconds, peak)), strict=True)
        values = {RATE: sum(images) / max(seconds) if sum(images) else 0.0, PEAK: max(peaks) / 1e9}
        # every process has the same values, so that their mean changes nothing
        pl_module.log_dict({k: v for k, v in values.items() if v}, batch_size=1, sync_dist=True)

    def _start(self) -> None:
        self._started, self._new_images = time.perf_counter(), 0

    def _stop(self, trainer: Trainer) -> None:
        """Add the images and the seconds since the start; without images, it was no training."""
        if self._new_images:
            if trainer.strategy.root_device.type != "cpu":
                torch.accelerator.synchronize(trainer.strategy.root_device)
            self._images += self._new_images
            self._seconds += time.perf_counter() - self._started
            self._new_images = 0


def _memory(trainer: Trainer) -> Any:
    """Return torch's module of a device that counts its peak memory; None for a CPU, for example."""
    module = torch.get_device_module(trainer.strategy.root_device)
    return module if hasattr(module, "max_memory_allocated") else None
