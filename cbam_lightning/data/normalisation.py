"""Normalising a batch of images on its device, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert images to float32, and normalise them; the result is torchvision's, bit for bit.

    Torchvision copies mean and std from the CPU for every batch, and such a copy waits until the device has
    done everything before it.

    Args:
        images: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1].
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, of values in [0, 1].

    Returns:
        float32 (N, C, H, W), contiguous.
    """
    # decoders write the channels of a pixel side by side; networks expect one channel after the other
    pixels: Tensor = F.to_dtype(images.contiguous(), torch.float32, scale=True)
    mean_on_device, std_on_device = _statistics(tuple(mean), tuple(std), images.device)
    return pixels.sub(mean_on_device).div_(std_on_device)


@lru_cache(maxsize=16)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Return mean and std as float32 (C, 1, 1)."""
    with torch.inference_mode(False):  # a validation may need them first
        return tuple(
            torch.tensor(each, dtype=torch.float32, device=device)[:, None, None] for each in (mean, std)
        )
