"""Data sets of images that are read one at a time, each of its own size, and cut to one size."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cbam_lightning.data.batch import BadImage, FileBatch, ImageDataset, SampleRequest, as_index
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.user_transforms import UserTransform
from cbam_lightning.seeding import image_seeds, spared_generator, spared_generators

MAX_DEFAULT_WORKERS = 8


class TransformedDataset(ImageDataset):
    """Images read and transformed on access; those that cannot be read are left out of the batch.

    Args:
        labels: int64 (M,), the class of each image.
        transform: From uint8 (C, H, W) of any size to (C, size_px, size_px), uint8 or float32 in [0, 1].
        channels: C, 1 for grey values or 3 for RGB.
        size_px: Height and width after the transform.
    """

    def __init__(self, labels: Tensor, transform: Transform, channels: Literal[1, 3], size_px: int) -> None:
        self.labels = labels
        self.transform = transform
        self.channels: Literal[1, 3] = channels
        self.size_px = size_px
        self.default_num_workers = min(MAX_DEFAULT_WORKERS, usable_cores())

    @abstractmethod
    def read(self, index: int) -> Tensor | BadImage:
        """Read the image at a position: uint8 (C, H, W), or the reason why there is none."""

    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> FileBatch:
        """Read a batch; images that fail are left out and listed in ``bad``."""
        images: list[Tensor] = []
        kept: list[int] = []
        bad: list[BadImage] = []
        own_code = isinstance(self.transform, UserTransform)
        for item in indices:
            index = item.position if isinstance(item, SampleRequest) else item
            image = self.read(index)
            if isinstance(image, BadImage):
                bad.append(image)
                if image.errno is not None:
                    break  # the run ends with this one, and a store that is out of reach takes long to say so
            else:
                with drawing(item, own_code):
                    images.append(self.transform(image))
                kept.append(index)
        kept_index = as_index(kept)
        empty = torch.empty((0, self.channels, self.size_px, self.size_px), dtype=torch.uint8)
        return FileBatch(stack(images) if images else empty, self.labels[kept_index], kept_index, tuple(bad))


@contextmanager
def drawing(item: int | SampleRequest, own_code: bool = False) -> Iterator[None]:
    """Let torch's global generator give the random numbers of an image, if it was drawn for training.

    Args:
        item: The image.
        own_code: Whether code of the user's runs. Then all global generators give the image's numbers, in
            evaluation those of its position, and none has moved on afterwards.
    """
    if own_code:
        seed = item.seed if isinstance(item, SampleRequest) else int(image_seeds(0, np.array([item]))[0])
        with spared_generators(seed):
            yield
    elif isinstance(item, SampleRequest):
        with spared_generator() as generator:
            generator.manual_seed(item.seed)
            yield
    else:
        yield


def usable_cores() -> int:
    """Count the processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
