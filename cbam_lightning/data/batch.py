"""Batches: what a data set returns to the trainer, and the record of an image that could not be read."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbam_lightning.errors import UsageError


class Batch(NamedTuple):
    """Images with their labels; a plain tuple, so that Lightning can move it to a device.

    Attributes:
        images: (N, C, H, W). The loader returns uint8 in [0, 255], or float32 in [0, 1] if a user-defined
            transform or data set returns floats. After ``ImageDataModule.on_after_batch_transfer`` they are
            float32, normalised by the mean and std of the data.
        labels: int64 (N,), -1 where the class is unknown. With mixup or cutmix, float32 (N, num_classes)
            with rows that sum to 1, in training only.
        indices: int64 (N,), positions in the data set of the split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


def as_batch(batch: Any, source: str = "the data") -> Any:
    """Convert a plain batch to a ``Batch``; a batch that has ``images`` is returned unchanged.

    Args:
        batch: ``(images, labels)`` as a tuple, a list or a dictionary with these keys; for prediction, the
            images alone.
        source: Where the batch comes from, for error messages.

    Returns:
        A ``Batch`` with indices of -1, because the positions are unknown.

    Raises:
        UsageError: The batch has another form, or the images are not floats.
    """
    if hasattr(batch, "images"):
        return batch
    parts = plain_parts(batch)
    if parts is None:
        raise UsageError(
            f"{source} gives batches of the type {type(batch).__name__}, and not (images, labels): tensors "
            "(N, C, H, W) and (N,). Let its collate_fn return these, or override the task's training_step."
        )
    images, labels = parts
    if not images.is_floating_point():
        raise UsageError(
            f"{source} gives images of {images.dtype}; a network takes normalised floats. Convert them in "
            "its transform, or use TorchDataset, which converts and normalises them."
        )
    return Batch(images, labels, torch.full((len(images),), -1))


def plain_parts(batch: Any) -> tuple[Tensor, Tensor] | None:
    """Return images and labels of a plain batch, as ``as_batch`` takes it; None if it is none."""
    if isinstance(batch, dict):
        batch = [batch.get("images"), batch.get("labels")]
    if isinstance(batch, Tensor):
        batch = [batch]
    if isinstance(batch, (tuple, list)) and len(batch) == 1 and isinstance(batch[0], Tensor):
        batch = [batch[0], torch.full((len(batch[0]),), -1)]
    fits = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)
    return (batch[0], batch[1]) if fits and len(batch[0]) == len(batch[1]) else None


class BadImage(NamedTuple):
    """A file that could not be read as an image.

    Attributes:
        path: The file.
        reason: What is wrong with it, in a few words.
        errno: The operating system's error number if the file could not be read at all, else ``None``.
    """

    path: str
    reason: str
    errno: int | None = None


class FileBatch(NamedTuple):
    """A batch as the worker process sends it, together with the files that failed.

    The failures travel as data because an exception raised in a worker reaches the main process as a
    traceback in a string. ``BaseDataModule.on_before_batch_transfer`` converts this to a ``Batch``.

    Attributes:
        images: As in ``Batch``; N counts the readable images only and may be 0.
        labels: int64 (N,).
        indices: int64 (N,).
        bad: The files left out of the batch.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: tuple[BadImage, ...]

    @property
    def batch(self) -> Batch:
        """The readable images."""
        return Batch(self.images, self.labels, self.indices)
