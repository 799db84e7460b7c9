"""What a data set hands to the trainer: a batch, and the record of an image that could not be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbam_lightning.errors import UsageError


class Batch(NamedTuple):
    """Images and what belongs to them; a plain tuple, so that Lightning can move it to a device.

    Attributes:
        images: (N, C, H, W). From the loader uint8 in [0, 255], or float32 in [0, 1] where a transform or a
            data set of the user's gives that; after ``ImageDataModule.on_after_batch_transfer`` float32,
            normalised by the mean and std of the data.
        labels: int64 (N,), -1 where the class is unknown. With mixup or cutmix, float32
            (N, num_classes) whose rows sum to 1, in training only.
        indices: int64 (N,), positions in the data set of the split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


def as_batch(batch: Any, source: str = "the data") -> Any:
    """Give the parts of a plain batch their names; a batch that has ``images`` stays as it is.

    Args:
        batch: ``(images, labels)`` as a tuple, a list or a dictionary with these keys; to predict, images.
        source: What gave it, for messages.

    Returns:
        A ``Batch`` whose indices are -1, since nobody knows them.

    Raises:
        UsageError: It is something else, or the images are no floats.
    """
    if hasattr(batch, "images"):
        return batch
    parts = _plain_parts(batch)
    if parts is None:
        message = (
            f"{source} gives batches of the type {type(batch).__name__}, and not (images, labels): tensors "
            "(N, C, H, W) and (N,). Let its collate_fn return these, or override the task's training_step."
        )
        raise UsageError(message)
    images, labels = parts
    if not images.is_floating_point():
        message = (
            f"{source} gives images of {images.dtype}; a network takes floats, normalised. Convert them in "
            "its transform, or use TorchDataset, which does both."
        )
        raise UsageError(message)
    return Batch(images, labels, torch.full((len(images),), -1))


def _plain_parts(batch: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(batch, dict):
        batch = [batch.get("images"), batch.get("labels")]
    if isinstance(batch, Tensor):
        batch = [batch]
    if isinstance(batch, (tuple, list)) and len(batch) == 1 and isinstance(batch[0], Tensor):
        batch = [batch[0], torch.full((len(batch[0]),), -1)]
    fits = isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)
    return (batch[0], batch[1]) if fits and len(batch[0]) == len(batch[1]) else None


class SampleRequest(NamedTuple):
    """An image to read in training.

    Attributes:
        position: In the data set.
        seed: Of all that is drawn for it, such as its cropping and flipping, in [0, 2^64).
    """

    position: int
    seed: int


class BadImage(NamedTuple):
    """A file that gave no image.

    Attributes:
        path: The file.
        reason: What is wrong with it, in a few words.
        errno: The operating system's error number when the file could not be read at all, else ``None``.
    """

    path: str
    reason: str
    errno: int | None = None


class FileBatch(NamedTuple):
    """A batch of image files as the worker sends it, together with the files that failed.

    The failures travel as data because an exception raised in a worker process reaches the main process as a
    traceback in a string. ``ImageDataModule.on_before_batch_transfer`` turns this into a ``Batch``.

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


class SplitDataset(Dataset[Any], ABC):
    """Images of one split, read a batch at a time, whatever is to be learnt of them.

    Attributes:
        default_num_workers: How many processes suit this data set when the user does not say.
        is_streamed: Whether it has to be fetched a shard at a time, in the order of ``train_share``.
    """

    default_num_workers: int
    is_streamed: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Count the images."""

    def __getitem__(self, index: int | Sequence[int | SampleRequest]) -> Any:
        """Read a batch, or a batch of one image."""
        return self.__getitems__([index] if isinstance(index, int) else index)

    @abstractmethod
    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> Any:
        """Read a whole batch; the ``DataLoader`` prefers this method to ``__getitem__``.

        Args:
            indices: Positions in this data set. Where images are changed at random, a bare position takes
                the random numbers from torch's global generator; where code of the user's does it, from a
                seed of the position's own.

        Returns:
            uint8 images with what belongs to them and their indices.
        """

    def train_share(self, generator: torch.Generator, num_replicas: int, rank: int) -> Tensor:
        """Return the images that a device trains on in an epoch, in a random order.

        Args:
            generator: Of the epoch; in the same state on every device.
            num_replicas: Number of devices.
            rank: Which of them this is.

        Returns:
            int64 (at least M // num_replicas,): positions in this data set, none of which another device has.
        """
        return torch.randperm(len(self), generator=generator)[rank::num_replicas]

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name by which a person finds the image at position ``index`` again."""


class ImageDataset(SplitDataset):
    """Images with a class each.

    Attributes:
        labels: int64 (M,), the class of every image, -1 where it is unknown.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> Batch | FileBatch:
        """Read a whole batch.

        Args:
            indices: As in ``SplitDataset``.

        Returns:
            uint8 images (N, C, H, W) with their labels and indices.
        """


def as_index(indices: Sequence[int]) -> Tensor:
    """Turn positions into an int64 tensor, of shape (0,) if there are none."""
    return torch.tensor(indices, dtype=torch.int64)
