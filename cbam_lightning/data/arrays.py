"""Small images that fit in memory: a data set that crops and flips a whole batch at once, in uint8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cbam_lightning.data.batch import Batch, ImageDataset, SampleRequest, as_index
from cbam_lightning.data.transformed import TransformedDataset
from cbam_lightning.data.user_transforms import UserTransform


class ArrayDataset(ImageDataset):
    """Images held as one uint8 tensor, optionally cropped and flipped at random.

    Args:
        images: uint8 (M, C, H, W) in [0, 255].
        labels: int64 (M,).
        pad_px: Zero pixels added on each side before a random crop back to H x W; 0 crops nothing.
        hflip: Whether each image is mirrored left to right with probability 1/2.
        part: What ``images`` are, for example ``"cifar10/test"``; the first half of their names.
        positions: int64, which of the images make up this data set; all of them if not given.
    """

    default_num_workers = 0  # a batch takes less time than sending it between processes

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

    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> Batch:
        """Read, crop and flip a batch."""
        index = as_index([item.position if isinstance(item, SampleRequest) else item for item in indices])
        images = self.images[self.positions[index]]
        if self.pad_px or self.hflip:
            seeds = _seeds(indices)
            images = random_crop(images, self.pad_px, seeds) if self.pad_px else images
            images = random_hflip(images, seeds) if self.hflip else images
        return Batch(images, self.labels[index], index)

    def name(self, index: int) -> str:
        """Return the part and the image's place in it, for example ``"fashion_mnist/test/00012"``."""
        return f"{self.part}/{int(self.positions[index]):05d}"

    def changed_by(self, transform: UserTransform) -> TransformedArrays:
        """Return the same images, changed by the user's transform and by nothing else."""
        return TransformedArrays(self, transform)


class TransformedArrays(TransformedDataset):
    """Images in memory, each by itself under a transform of the user's.

    Args:
        source: The images.
        transform: From uint8 (C, H, W) to (C, H, W).
    """

    def __init__(self, source: ArrayDataset, transform: UserTransform) -> None:
        super().__init__(source.labels, transform, transform.channels, transform.size[0])
        self.source = source

    def read(self, index: int) -> Tensor:
        """Return the image as it is in memory: uint8 (C, H, W)."""
        return self.source.images[self.source.positions[index]]

    def name(self, index: int) -> str:
        """Return the part and the image's place in it."""
        return self.source.name(index)


def _seeds(indices: Sequence[int | SampleRequest]) -> Tensor:
    """Return 63 random bits an image, int64 (N,)."""
    fresh = torch.randint(2**63 - 1, (len(indices),)).tolist()
    pairs = zip(indices, fresh, strict=True)
    return as_index([item.seed >> 1 if isinstance(item, SampleRequest) else seed for item, seed in pairs])


def random_crop(images: Tensor, pad_px: int, seeds: Tensor) -> Tensor:
    """Pad each image with zeros and cut its own random window of the original size.

    Args:
        images: (N, C, H, W) of any dtype.
        pad_px: Zero pixels added on each side.
        seeds: int64 (N,) in [0, 2^63); bits 1 to 62 say where.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (pad_px, pad_px, pad_px, pad_px))
    # A view: (N, C, 2 pad + 1, 2 pad + 1, H, W). The indexing below copies one window an image.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = ((seeds >> shift) % 2**31 % (2 * pad_px + 1) for shift in (1, 32))
    return windows[torch.arange(count), :, top, left]


def random_hflip(images: Tensor, seeds: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: (N, C, H, W) of any dtype.
        seeds: int64 (N,); bit 0 says whether.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    flip = seeds % 2 == 1
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
