"""What users hand over as an image, as the tensor that everything here works with."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cbam_lightning.data.image_decoding import UndecodableError, check_aspect_ratio, from_pillow

# Resizing floats leaves [0, 1] by rounding.
_ROUNDING = 1e-4


class NotAnImageError(ValueError):
    """An object cannot be taken for an image; the message describes the object."""


def as_image(given: object, channels: Literal[1, 3], *, any_float: bool = False) -> Tensor:
    """Convert a PIL image, an array or a tensor.

    Args:
        given: A PIL image of any mode; an array (H, W) or (H, W, C); or a tensor (H, W) or (C, H, W). Values
            are integers in [0, 255], floats in [0, 1], or bool.
        channels: C.
        any_float: Whether floats may have any value.

    Returns:
        (C, H, W): float32 for floats, otherwise uint8 in [0, 255].

    Raises:
        NotAnImageError: It is something else.
    """
    try:
        if isinstance(given, Image.Image):
            return from_pillow(given, channels)
        image = _from_array(given) if isinstance(given, np.ndarray) else _from_tensor(given)
        if image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise NotAnImageError(_described(given))
        check_aspect_ratio(image.shape[2], image.shape[1])
    except UndecodableError as error:
        message = f"an image that cannot be taken ({error})"
        raise NotAnImageError(message) from error
    return _as_pixels(image, any_float)


def allowed_images(channels: Literal[1, 3]) -> str:
    """Say what ``as_image`` takes."""
    arrays = "an array (H, W, 3) or a tensor (3, H, W)"
    if channels == 1:
        arrays = "an array (H, W) or a tensor (1, H, W)"
    return (
        f"a PIL image, {arrays}, as in_channels is {channels}, with integers in [0, 255] or floats in "
        "[0, 1], which the data module normalises"
    )


def _from_array(array: NDArray[np.generic]) -> Tensor:
    """Copy an array, which may be read-only or of another machine's byte order: (C, H, W)."""
    kinds = {"b": np.bool_, "u": np.int64, "i": np.int64, "f": np.float32}
    if array.dtype.kind not in kinds or array.ndim not in (2, 3):
        raise NotAnImageError(_described(array))
    dtype = np.uint8 if array.dtype == np.uint8 else kinds[array.dtype.kind]
    pixels = torch.from_numpy(np.array(array, dtype, order="C"))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _from_tensor(given: object) -> Tensor:
    if not isinstance(given, Tensor) or given.is_complex():
        raise NotAnImageError(_described(given))
    image = given.detach().cpu().as_subclass(Tensor)
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
    if not (-slack <= smallest and largest <= limit + slack):  # NaN is in no range
        message = f"{'floats' if is_float else 'integers'} from {smallest:.4g} to {largest:.4g}"
        raise NotAnImageError(message)
    return values if is_float else values.to(torch.uint8)


def _described(given: object) -> str:
    if isinstance(given, Tensor | np.ndarray):
        kind = "a tensor" if isinstance(given, Tensor) else "an array"
        return f"{kind} {tuple(given.shape)} of {str(given.dtype).removeprefix('torch.')}"
    return "nothing" if given is None else f"an object of type {type(given).__name__}"
