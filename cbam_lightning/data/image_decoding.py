"""Decoding of one image file (JPEG, PNG and others) to a uint8 tensor.

Pillow reads every header and refuses decompression bombs. torchvision then decodes JPEG directly into a
tensor, and Pillow decodes everything else. That includes PNG, because the PNG decoder of torchvision 0.29
ends the process with a segmentation fault on damaged files ("libpng error: bad adaptive filter value").
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode

# An allow-list, so that a hostile file cannot reach Pillow's other readers, such as EPS, which runs
# Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)

# With the shorter side resized to 256 pixels, the longer one has up to 25,600: 20 MB per RGB image.
MAX_ASPECT_RATIO = 100

# Values of the EXIF tag that exchange height and width
# (https://www.cipa.jp/std/documents/e/DC-008-Translation-2019-E.pdf, section 4.6.4)
_QUARTER_TURNS = (5, 6, 7, 8)

# Not CMYK: only Pillow knows Adobe's inverted variant.
_TORCHVISION_JPEG_MODES = ("L", "RGB")


class UndecodableError(ValueError):
    """The bytes are not a readable image; the message is the reason, without the file name."""


def decode_image(data: bytes, channels: Literal[1, 3], upright: bool = True) -> Tensor:
    """Decode an image and rotate it as its EXIF tag says.

    Transparency is dropped. Of an animation the first frame is returned, of 16-bit values the high byte.

    Args:
        data: Content of the file.
        channels: 1 for greyscale (luma of ITU-R 601), 3 for RGB.
        upright: Whether to rotate it; otherwise it stays as it is stored. TIFF is always upright.

    Returns:
        uint8 (channels, H, W) in [0, 255].

    Raises:
        UndecodableError: The bytes are not an image of a known format, are truncated, or need too much
            memory: over 179 million pixels (Pillow's limit), or one side over 100 times the other.
    """
    with _opened(io.BytesIO(data)) as file:
        if file.format == "JPEG" and file.mode in _TORCHVISION_JPEG_MODES:
            return _decode_jpeg(data, channels, upright)
        if file.format == "PPM" and file.mode == "I":  # Pillow scales all above 8 bits to 16
            return from_pillow(Image.fromarray(np.asarray(file).astype(np.uint16)), channels, upright)
        return from_pillow(file, channels, upright)


def check_header(path: str) -> None:
    """Read the header of an image file, but not its pixels.

    Raises:
        UndecodableError: As ``decode_image``, except for damage after the header.
        OSError: The file cannot be opened.
    """
    with Path(path).open("rb") as data, _opened(data):
        pass


def upright_size(path: str) -> tuple[int, int]:
    """Return height and width of an image file as ``decode_image`` returns it; only its header is read.

    Raises:
        UndecodableError: As ``decode_image``, except for damage after the header.
        OSError: The file cannot be opened.
    """
    with Path(path).open("rb") as data, _opened(data) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
        # of a TIFF, Pillow gives the size after the turn
        return file.size if turned and file.format != "TIFF" else file.size[::-1]


def decode_not_black(data: bytes) -> Tensor:
    """Decode an image as ``decode_image`` does, and return where it is not black and not wholly transparent.

    A value of 1 is not black, however many bits the image has.

    Returns:
        bool (H, W).

    Raises:
        UndecodableError: As ``decode_image``.
    """
    with _opened(io.BytesIO(data)) as file:
        turned = ImageOps.exif_transpose(file)
        if turned.mode.startswith(("I", "F")):
            return torch.from_numpy(np.asarray(turned) != 0)
        pixels = np.asarray(turned.convert("RGBA"))
        return torch.from_numpy(pixels[..., :3].any(-1) & (pixels[..., 3] > 0))


@contextmanager
def _opened(data: IO[bytes]) -> Iterator[Image.Image]:
    """Open an image of a known format, and turn all errors inside into ``UndecodableError``."""
    try:
        with Image.open(data, formats=FORMATS) as file:
            check_aspect_ratio(*file.size)
            yield file
    except UndecodableError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableError("not an image of a known format") from error
    # Damaged files make Pillow's plugins raise almost anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise UndecodableError(" ".join(str(error).split()) or type(error).__name__) from error


def from_pillow(image: Image.Image, channels: Literal[1, 3], upright: bool = True) -> Tensor:
    """Convert a Pillow image of any mode, as ``decode_image`` does.

    Returns:
        uint8 (channels, H, W) in [0, 255].

    Raises:
        UndecodableError: The pixel values have no fixed range, or one side is over 100 times the other.
    """
    check_aspect_ratio(*image.size)
    turned = ImageOps.exif_transpose(image) if upright else image
    return torch.from_numpy(_to_uint8(turned, channels)).permute(2, 0, 1)


def check_aspect_ratio(width: int, height: int) -> None:
    """Refuse an image that is almost a line.

    Raises:
        UndecodableError: One side is over 100 times the other.
    """
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UndecodableError(f"{width} x {height} pixels, one side over {MAX_ASPECT_RATIO} times the other")


def _decode_jpeg(data: bytes, channels: Literal[1, 3], upright: bool) -> Tensor:
    """Decode with torchvision: (channels, H, W)."""
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    with warnings.catch_warnings():
        # torchvision 0.29 announces a move to TorchCodec, whose image decoder needs a newer torch than ours
        warnings.simplefilter("ignore", DeprecationWarning)
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            decoded: Tensor = torchvision_decode(encoded, mode, apply_exif_orientation=upright)
        except RuntimeError as error:  # its text quotes C++ source lines
            raise UndecodableError("it is truncated or damaged") from error
    return decoded


def _to_uint8(image: Image.Image, channels: Literal[1, 3]) -> NDArray[np.uint8]:
    """Convert any Pillow mode to uint8 (H, W, channels)."""
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UndecodableError(
            f"32-bit pixels (Pillow mode {image.mode}) have no fixed range; save it with 8 or 16 bits"
        )
    elif image.mode == "P":  # convert() warns about per-colour transparency
        image = image.convert("RGBA")
    converted = np.array(image.convert("RGB" if channels == 3 else "L"))
    return converted.reshape(image.height, image.width, channels)
