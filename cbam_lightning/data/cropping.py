"""Cropping and resizing one uint8 image: a random crop for training, the centre for evaluation.

These do the same as torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``, ``Resize`` and
``CenterCrop`` with less work per image: the random numbers of a box come from one call, and the channels of a
pixel stay adjacent, as the decoder writes them. Only this layout needs no copy in torch's resizing
(``upsample_avx_bilinear_bicubic_uint8`` in ATen's UpSampleKernelAVXAntialias.h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_dtype

Transform = Callable[[Tensor], Tensor]
Box = tuple[int, int, int, int]

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of training crops, as in https://arxiv.org/abs/1409.4842
MAX_TRIES = 10  # as in torchvision; the first one nearly always fits


@dataclass(frozen=True)
class TrainTransform:
    """Crop a random part, resize it to the input size, and mirror it with probability 1/2.

    The random numbers come from torch's global generator, which the data set seeds for each image.

    Args:
        size_px: Height and width of the result.
        crop_scale: Smallest and largest fraction of the image's area to crop.
        hflip: Whether to mirror.
    """

    size_px: int
    crop_scale: tuple[float, float]
    hflip: bool

    def __call__(self, image: Tensor) -> Tensor:
        """Transform uint8 (C, H, W) to uint8 (C, size_px, size_px)."""
        _, height, width = image.shape
        box = random_box(height, width, self.crop_scale)
        crop = resize(image, box, (self.size_px, self.size_px))
        return crop.flip(-1) if self.hflip and torch.rand(()).item() < 0.5 else crop


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side, then crop the centre.

    Args:
        size_px: Height and width of the result.
        resize_px: Length of the shorter side before the crop, at least ``size_px``.
    """

    size_px: int
    resize_px: int

    def __call__(self, image: Tensor) -> Tensor:
        """Transform uint8 (C, H, W) to uint8 (C, size_px, size_px)."""
        resized = resize_shorter_side(image, self.resize_px)
        top, left = (round((side - self.size_px) / 2) for side in resized.shape[1:])
        return resized[:, top : top + self.size_px, left : left + self.size_px]


def resize_shorter_side(image: Tensor, length_px: int) -> Tensor:
    """Resize an image to a length of its shorter side, keeping the aspect ratio.

    Args:
        image: uint8 (C, H, W).
        length_px: Length of the shorter side.

    Returns:
        uint8 (C, H', W') with min(H', W') = length_px; the longer side is rounded down, as in torchvision.
    """
    _, height, width = image.shape
    shorter = min(height, width)
    if shorter == length_px:
        return image
    size = (length_px * height // shorter, length_px * width // shorter)
    return resize(image, (0, 0, height, width), size)


def resize(image: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Resize a part of an image with antialiased bilinear interpolation.

    Args:
        image: uint8 (C, H, W).
        box: Top, left, height and width of the part.
        size: Height and width of the result.

    Returns:
        uint8 (C, *size); with three channels, those of a pixel are adjacent in memory.
    """
    top, left, height, width = box
    part = image.permute(1, 2, 0)[top : top + height, left : left + width]
    # (1, C, h, w) with the strides of channels_last, which image[None] would not have.
    return F.interpolate(part[None].permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)[0]


def random_box(height: int, width: int, scale: tuple[float, float]) -> Box:
    """Draw a random box in an image: uniform in area, log-uniform in aspect ratio.

    If no such box fits, the largest centred one with an aspect ratio in ``ASPECT_RATIOS`` is returned, as in
    torchvision.

    Args:
        height: Height of the image.
        width: Width of the image.
        scale: Smallest and largest fraction of the area.

    Returns:
        Top, left, height and width.
    """
    narrowest, widest = ASPECT_RATIOS
    for _ in range(MAX_TRIES):
        share, shape, down, right = torch.rand(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        ratio = narrowest * (widest / narrowest) ** shape
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height = min(height, round(width / narrowest))
    box_width = min(width, round(height * widest))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def stack(images: list[Tensor], shape: Sequence[int]) -> Tensor:
    """Stack images of one size into a batch, keeping the channels of a pixel adjacent.

    Args:
        images: N images (C, H, W), uint8 or float32 in [0, 1].
        shape: (C, H, W), for an empty list.

    Returns:
        (N, C, H, W), float32 if any image is.
    """
    if not images:
        return torch.empty((0, *shape), dtype=torch.uint8)
    if len({image.dtype for image in images}) > 1:
        images = [to_dtype(image, torch.float32, scale=True) for image in images]
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
