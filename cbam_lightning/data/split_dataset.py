"""The data set of one split: base classes, and reading images one at a time with seeded random numbers."""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbam_lightning.data.batch import BadImage, FileBatch
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.image_digests import digest_of_names
from cbam_lightning.data.sample_requests import Requests, SampleRequest, position_of
from cbam_lightning.data.user_transforms import UserTransform
from cbam_lightning.seeding import image_seeds, spared_generator, spared_generators

MAX_DEFAULT_WORKERS = 8

Sample = TypeVar("Sample")


class SplitDataset(Dataset[Any], ABC):
    """Images of one split, read a batch at a time.

    Attributes:
        is_streamed: Whether it has to be fetched a shard at a time, in the order of ``train_share``.
        reads_in_shards: Whether ``train_share`` gives each device shards of its own.
        device: Where its batches are.
    """

    is_streamed: bool = False
    reads_in_shards: bool = False
    device: torch.device = torch.device("cpu")

    @property
    def default_num_workers(self) -> int:
        """Number of worker processes that suits this data set if the user does not choose one."""
        return min(MAX_DEFAULT_WORKERS, usable_cores())

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int | Requests) -> Any:
        """Read a batch, or a batch of one image."""
        return self.__getitems__([index] if isinstance(index, int) else index)

    @abstractmethod
    def __getitems__(self, requests: Requests) -> Any:
        """Read a whole batch; the ``DataLoader`` prefers this method to ``__getitem__``.

        Args:
            requests: Positions in this data set. For a bare position, random changes draw from torch's
                global generator, and user-defined code draws from a seed made of the position.

        Returns:
            A batch of uint8 images with their indices.
        """

    def train_share(self, generator: torch.Generator, num_replicas: int, rank: int) -> Tensor:
        """Return the images that one device trains on in an epoch, in random order.

        Args:
            generator: Generator of the epoch, in the same state on every device.
            num_replicas: Number of devices.
            rank: Index of this device.

        Returns:
            int64 (at least M // num_replicas,): positions in this data set; no two devices share one.
        """
        return torch.randperm(len(self), generator=generator)[rank::num_replicas]

    @abstractmethod
    def name(self, index: int) -> str:
        """Return a name by which a person finds the image at position ``index``."""

    def digest(self) -> str:
        """Return what tells these images from others: here, a digest of their names."""
        names = [os.fsencode(self.name(index)) for index in range(len(self))]
        return digest_of_names(np.array(names, dtype=np.bytes_))


class ImageDataset(SplitDataset):
    """Images with one class each.

    Attributes:
        labels: int64 (M,), the class of every image, -1 where it is unknown.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Preparation(NamedTuple):
    """How images are prepared for a network.

    Attributes:
        transform: From uint8 (C, H, W) of any size to (C, size_px, size_px), uint8 or float32 in [0, 1].
        channels: C, 1 for greyscale or 3 for RGB.
        size_px: Height and width after the transform.
    """

    transform: Transform
    channels: Literal[1, 3]
    size_px: int


class TransformedDataset(ImageDataset):
    """Images that are read and transformed on access; unreadable ones are left out of the batch.

    Args:
        labels: int64 (M,), the class of each image.
        preparation: How the images are prepared.
    """

    def __init__(self, labels: Tensor, preparation: Preparation) -> None:
        self.labels = labels
        self.transform, self.channels, self.size_px = preparation

    @abstractmethod
    def read(self, index: int) -> Tensor | BadImage:
        """Read the image at a position: uint8 (C, H, W), or the reason why it cannot be read."""

    def __getitems__(self, requests: Requests) -> FileBatch:
        """Read a batch; images that fail are left out and listed in ``bad``."""
        runs_user_code = isinstance(self.transform, UserTransform)
        positions, images, bad = load_each(requests, self._load, runs_user_code)
        index = as_index(positions)
        shape = (self.channels, self.size_px, self.size_px)
        return FileBatch(stack(images, shape), self.labels[index], index, bad)

    def _load(self, index: int) -> Tensor | BadImage:
        image = self.read(index)
        return image if isinstance(image, BadImage) else self.transform(image)


def load_each(
    requests: Requests, load: Callable[[int], Sample | BadImage], runs_user_code: bool
) -> tuple[list[int], list[Sample], tuple[BadImage, ...]]:
    """Load the images of a batch one at a time, each with its own random numbers.

    Args:
        requests: As in ``SplitDataset.__getitems__``.
        load: Reads and transforms the image at a position.
        runs_user_code: As in ``seeded``.

    Returns:
        The positions that could be read, what was loaded from them, and the images that failed.
    """
    positions: list[int] = []
    samples: list[Sample] = []
    bad: list[BadImage] = []
    for request in requests:
        position = position_of(request)
        with seeded(request, runs_user_code):
            sample = load(position)
        if not isinstance(sample, BadImage):
            positions.append(position)
            samples.append(sample)
            continue
        bad.append(sample)
        if sample.errno is not None:
            break  # it ends the run, and an unreachable store takes long to fail again
    return positions, samples, tuple(bad)


@contextmanager
def seeded(request: int | SampleRequest, runs_user_code: bool) -> Iterator[None]:
    """Seed torch's global generator for an image that is requested for training, and restore it afterwards.

    Args:
        request: The image.
        runs_user_code: Whether user-defined code runs inside. Then all global generators are seeded and
            restored; in evaluation the seed is made of the position.
    """
    if runs_user_code:
        seed = int(image_seeds(0, np.array([request]))[0]) if isinstance(request, int) else request.seed
        with spared_generators(seed):
            yield
    elif isinstance(request, SampleRequest):
        with spared_generator() as generator:
            generator.manual_seed(request.seed)
            yield
    else:
        yield


def as_index(positions: Sequence[int] | Sequence[tuple[int, int]]) -> Tensor:
    """Convert positions, or pairs of integers, to an int64 tensor, of shape (0,) if there are none."""
    return torch.tensor(positions, dtype=torch.int64)


def whole_number(value: Any) -> int:
    """Return an integer of any type, such as a NumPy scalar, as ``int``; -1 if the value is not one."""
    try:
        return operator.index(value)
    except TypeError:  # torch raises it for tensors of more than one element
        return -1


def usable_cores() -> int:
    """Return the number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
