"""Small images that fit in memory: whole batches are cropped and flipped at once, in uint8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cbam_lightning.data.batch import Batch
from cbam_lightning.data.image_digests import digest_of_arrays
from cbam_lightning.data.random_shifts import draw_shifts, mirrored, padded, windows
from cbam_lightning.data.sample_requests import Requests, positions_of, seeds_of
from cbam_lightning.data.split_dataset import ImageDataset, Preparation, TransformedDataset
from cbam_lightning.data.user_transforms import UserTransform


class ArrayDataset(ImageDataset):
    """Images held as one uint8 tensor, optionally cropped and flipped at random.

    Args:
        images: uint8 (M, C, H, W) in [0, 255].
        labels: int64 (M,).
        pad_px: Zero pixels added on each side before a random crop back to H x W; 0 disables it.
        hflip: Whether each image is mirrored left to right with probability 1/2.
        part: Name of ``images``, for example ``"cifar10/test"``; the first part of the images' names.
        positions: int64, the images that belong to this data set. Default: all.
    """

    default_num_workers = 0  # reading a batch takes less time than sending it between processes

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        pad_px: int = 0,
        hflip: bool = False,
        *,
        part: str = "images",
        positions: Tensor | None = None,
    ) -> None:
        self.images = images
        self.positions = torch.arange(len(images)) if positions is None else positions
        self.labels = labels[self.positions]
        self.pad_px = pad_px
        self.hflip = hflip
        self.part = part

    def __getitems__(self, requests: Requests) -> Batch:
        """Read, crop and flip a batch."""
        index, labels, top, left, flip = self.draw(requests)
        images = self.images[self.positions[index]]
        if self.pad_px:
            shifted = windows(padded(images, self.pad_px), self.pad_px)
            images = shifted[torch.arange(len(index)), :, top, left]
        return Batch(mirrored(images, flip) if self.hflip else images, labels, index)

    def draw(self, requests: Requests) -> Tensor:
        """Return what makes a batch of the images.

        Returns:
            int64 (5, N): position in this data set, label, and the results of ``draw_shifts``, which are 0
            without augmentation.
        """
        positions = positions_of(requests)
        drawn = np.zeros((5, len(positions)), dtype=np.int64)
        drawn[0], drawn[1] = positions, self.labels.numpy()[positions]
        if self.pad_px or self.hflip:
            drawn[2:] = draw_shifts(seeds_of(requests), self.pad_px)
        return torch.from_numpy(drawn)

    def name(self, index: int) -> str:
        """Return the part and the image's position in it, for example ``"fashion_mnist/test/00012"``."""
        return f"{self.part}/{int(self.positions[index]):05d}"

    def digest(self) -> str:
        """Return a digest of the positions and labels, and of some of the images."""
        return digest_of_arrays(self.part, self.positions, self.labels, images=self.images)


class TransformedArrays(TransformedDataset):
    """Images in memory, changed one at a time by a user-defined transform and by nothing else.

    Args:
        source: The images.
        transform: From uint8 (C, H, W) to (C, H, W).
    """

    def __init__(self, source: ArrayDataset, transform: UserTransform) -> None:
        super().__init__(source.labels, Preparation(transform, transform.channels, transform.size[0]))
        self.source = source

    def read(self, index: int) -> Tensor:
        """Return the image as it is in memory: uint8 (C, H, W)."""
        return self.source.images[self.source.positions[index]]

    def name(self, index: int) -> str:
        """Return the part and the image's position in it."""
        return self.source.name(index)

    def digest(self) -> str:
        """Return the digest of the images in memory."""
        return self.source.digest()
