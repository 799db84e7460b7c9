"""Which way up an annotated image is: boxes and pixels have the same coordinates."""

from __future__ import annotations

import io
import warnings
from typing import Literal

from PIL import ExifTags, Image
from torch import Tensor

from cbam_lightning.data.image_decoding import FORMATS, UndecodableError, decode_image

# Values of the EXIF tag (https://www.cipa.jp/std/documents/e/DC-008-Translation-2019-E.pdf, section 4.6.4):
# half turns and mirror images, and those with a quarter turn, which exchanges height and width.
_SAME_SIZE = (2, 3, 4)
_ANY = (*_SAME_SIZE, 5, 6, 7, 8)


def decode_annotated(data: bytes, channels: Literal[1, 3], size: tuple[int, int]) -> Tensor:
    """Decode an image the way up that its boxes were drawn on.

    A camera that was turned stores its image turned, with an EXIF tag that says how. Some programs for
    annotation heed the tag, others do not. The size in the annotation decides: where it is that of the image
    as stored, the tag is not heeded, as in pycocotools and in torchvision's ``CocoDetection``; where it is
    that of the image made upright, the image is made upright. Where both sizes are the same, as for half
    turns, mirror images and squares, the image stays as stored, with a warning.

    Args:
        data: Content of the file.
        channels: 1 for greyscale, 3 for RGB.
        size: Height and width of the image according to its annotation; 0 if there is none, for an upright
            image.

    Returns:
        uint8 (channels, *size).

    Raises:
        UndecodableError: It is not a readable image, or it has another size both ways.
    """
    stored, keeps_its_size = _header(data)
    as_stored = stored == size
    if as_stored and keeps_its_size:
        warnings.warn(
            "there are images with an EXIF rotation that keeps their size, so that the sizes in their "
            "annotations do not say whether the boxes are for the rotated ones: they are not rotated.",
            stacklevel=2,
        )
    image = decode_image(data, channels, upright=not as_stored)
    found = image.shape[1], image.shape[2]
    if any(size) and found != size:
        turned = f" ({_sides(stored)} as stored, before its EXIF rotation)" if stored != found else ""
        raise UndecodableError(f"it has {_sides(found)} pixels{turned}, its annotation is for {_sides(size)}")
    return image


def _sides(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _header(data: bytes) -> tuple[tuple[int, int], bool]:
    """Return height and width of an image as stored, and whether it has a rotation that keeps them."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            is_square = image.height == image.width
            return (image.height, image.width), orientation in (_ANY if is_square else _SAME_SIZE)
    except Exception:  # whatever is wrong with it, decoding says
        return (0, 0), False
