"""Data sets of images that are read one at a time and cropped to one size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from cbam_lightning.data.batch import BadImage, FileBatch
from cbam_lightning.data.cropping import Transform, stack
from cbam_lightning.data.split_dataset import ImageDataset, SampleRequest, as_index, load_each
from cbam_lightning.data.user_transforms import UserTransform


class TransformedDataset(ImageDataset):
    """Images that are read and transformed on access; unreadable ones are left out of the batch.

    Args:
        labels: int64 (M,), the class of each image.
        transform: From uint8 (C, H, W) of any size to (C, size_px, size_px), uint8 or float32 in [0, 1].
        channels: C, 1 for greyscale or 3 for RGB.
        size_px: Height and width after the transform.
    """

    def __init__(self, labels: Tensor, transform: Transform, channels: Literal[1, 3], size_px: int) -> None:
        self.labels = labels
        self.transform = transform
        self.channels: Literal[1, 3] = channels
        self.size_px = size_px

    @abstractmethod
    def read(self, index: int) -> Tensor | BadImage:
        """Read the image at a position: uint8 (C, H, W), or the reason why it cannot be read."""

    def __getitems__(self, requests: Sequence[int | SampleRequest]) -> FileBatch:
        """Read a batch; images that fail are left out and listed in ``bad``."""
        runs_user_code = isinstance(self.transform, UserTransform)
        positions, images, bad = load_each(requests, self._load, runs_user_code)
        index = as_index(positions)
        shape = (self.channels, self.size_px, self.size_px)
        return FileBatch(stack(images, shape), self.labels[index], index, bad)

    def _load(self, index: int) -> Tensor | BadImage:
        image = self.read(index)
        return image if isinstance(image, BadImage) else self.transform(image)
