"""Conversion of user-supplied images (PIL, NumPy, torch) to tensors."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cbam_lightning.data.image_decoding import UndecodableError, check_aspect_ratio, from_pillow

# Resized floats can leave [0, 1] by rounding.
_ROUNDING = 1e-4


class NotAnImageError(ValueError):
    """An object is not an image; the message describes the object."""


def as_image(value: object, channels: Literal[1, 3], *, any_float: bool = False) -> Tensor:
    """Convert a PIL image, an array or a tensor.

    Args:
        value: A PIL image of any mode; an array (H, W) or (H, W, C); or a tensor (H, W) or (C, H, W). Values
            are integers in [0, 255], floats in [0, 1], or bool.
        channels: C, 1 for greyscale or 3 for RGB.
        any_float: Whether floats may have any value, not only those in [0, 1].

    Returns:
        (C, H, W): float32 for floats, otherwise uint8 in [0, 255].

    Raises:
        NotAnImageError: The value is not such an image.
    """
    try:
        if isinstance(value, Image.Image):
            return from_pillow(value, channels)
        image = _as_tensor(value)
        if image is None or image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise NotAnImageError(described(value))
        check_aspect_ratio(image.shape[2], image.shape[1])
    except UndecodableError as error:
        raise NotAnImageError(f"an unusable image ({error})") from error
    return _as_pixels(image, any_float)


def allowed_images(channels: Literal[1, 3]) -> str:
    """Describe what ``as_image`` accepts."""
    arrays = "an array (H, W, 3) or a tensor (3, H, W)"
    if channels == 1:
        arrays = "an array (H, W) or a tensor (1, H, W)"
    return (
        f"a PIL image, {arrays}, as in_channels is {channels}, with integers in [0, 255] or floats in "
        "[0, 1], which the data module normalises"
    )


def _as_tensor(value: object) -> Tensor | None:
    """Convert an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), to a tensor (C, H, W)."""
    kinds = {"b": np.bool_, "u": np.int64, "i": np.int64, "f": np.float32}
    if isinstance(value, np.ndarray) and value.dtype.kind in kinds:
        dtype = np.uint8 if value.dtype == np.uint8 else kinds[value.dtype.kind]
        value = torch.from_numpy(np.array(value, dtype, order="C"))  # may be read-only or byte-swapped
        value = value.permute(2, 0, 1) if value.ndim == 3 else value
    if not isinstance(value, Tensor) or value.is_complex():
        return None
    image = value.detach().cpu().as_subclass(Tensor)
    return image[None] if image.ndim == 2 else image


def _as_pixels(image: Tensor, any_float: bool) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    is_float = image.is_floating_point()
    values = image.float() if is_float else image.to(torch.int64)
    if is_float and any_float:
        return values
    smallest, largest = values.min().item(), values.max().item()
    slack, limit = (_ROUNDING, 1) if is_float else (0, 255)
    if not (-slack <= smallest and largest <= limit + slack):  # also true for NaN
        raise NotAnImageError(f"{'floats' if is_float else 'integers'} from {smallest:.4g} to {largest:.4g}")
    return values if is_float else values.to(torch.uint8)


def described(value: object) -> str:
    """Describe an object for error messages: its kind, and the shape and dtype of tensors and arrays."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value is None else f"an object of type {type(value).__name__}"
