"""Random crops of padded images and random flips, for all images of a batch at once, on any device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def draw_shifts(seeds: NDArray[np.uint64], pad_px: int) -> tuple[NDArray[np.uint64], ...]:
    """Choose a window of each padded image, and whether it is mirrored.

    Args:
        seeds: (N,). Bit 1 decides on mirroring, bits 2 to 32 choose the top, bits 33 to 63 the left.
        pad_px: Pixels added on each side.

    Returns:
        (N,) each: top and left of the window, in [0, 2 pad_px], and 1 for those that are mirrored, else 0.
    """
    places = np.uint64(2 * pad_px + 1)
    top = (seeds >> np.uint64(2)) % np.uint64(2**31) % places
    left = (seeds >> np.uint64(33)) % places
    return top, left, (seeds >> np.uint64(1)) % np.uint64(2)


def padded(images: Tensor, pad_px: int) -> Tensor:
    """Add zero pixels on each side of images (N, C, H, W); with 0, return them as they are."""
    return F.pad(images, (pad_px, pad_px, pad_px, pad_px)) if pad_px else images


def windows(images: Tensor, pad_px: int) -> Tensor:
    """Return all windows of the original size in padded images.

    Args:
        images: (N, C, H + 2 pad_px, W + 2 pad_px) of any dtype.
        pad_px: Pixels that were added on each side.

    Returns:
        (N, C, 2 pad_px + 1, 2 pad_px + 1, H, W), a view. Indexing it copies one window of each image.
    """
    height, width = (side - 2 * pad_px for side in images.shape[2:])
    return images.unfold(2, height, 1).unfold(3, width, 1)


def mirrored(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror some images left to right.

    Args:
        images: (N, C, H, W) of any dtype.
        flip: int64 (N,), 1 for those that are mirrored, else 0.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    return torch.where(flip.bool()[:, None, None, None], images.flip(-1), images)
