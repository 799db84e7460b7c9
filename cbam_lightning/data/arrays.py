"""Small images that fit in memory: a data set that crops and flips a whole batch at once, in uint8."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cbam_lightning.data.batch import Batch, ImageDataset, as_index


class ArrayDataset(ImageDataset):
    """Images held as one uint8 tensor, optionally cropped and flipped at random.

    The random numbers come from torch's global generator, so ``seed_everything`` governs them.

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

    def __getitems__(self, indices: list[int]) -> Batch:
        """Read, crop and flip a batch."""
        index = as_index(indices)
        images = self.images[self.positions[index]]
        if self.pad_px:
            images = random_crop(images, self.pad_px)
        if self.hflip:
            images = random_hflip(images)
        return Batch(images, self.labels[index], index)

    def name(self, index: int) -> str:
        """Return the part and the image's place in it, for example ``"fashion_mnist/test/00012"``."""
        return f"{self.part}/{int(self.positions[index]):05d}"


def random_crop(images: Tensor, pad_px: int) -> Tensor:
    """Pad each image with zeros and cut its own random window of the original size.

    Args:
        images: (N, C, H, W) of any dtype.
        pad_px: Zero pixels added on each side.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (pad_px, pad_px, pad_px, pad_px))
    # A view: (N, C, 2 pad + 1, 2 pad + 1, H, W). The indexing below copies one window an image.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * pad_px + 1, (2, count))
    return windows[torch.arange(count), :, top, left]


def random_hflip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: (N, C, H, W) of any dtype.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    flip = torch.rand(len(images)) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
