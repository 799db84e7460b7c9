"""The idx format of MNIST and its successors: one array of bytes, plain or gzip-compressed.

A file holds a four-byte magic number (0, 0, type code, number of axes), the length of each axis as a
big-endian 32-bit integer, then the values, last axis fastest. Source: end of
http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cbam_lightning.errors import UsageError

UINT8_CODE = 0x08
MAX_BYTES = 1 << 30  # per array; the largest of these data sets, EMNIST ByClass, has 638,000,000


def read_idx(path: Path, num_axes: int) -> NDArray[np.uint8]:
    """Read an idx file of bytes.

    Args:
        path: The file; it is decompressed if its name ends in ``.gz``.
        num_axes: Number of axes that the array must have.

    Returns:
        uint8 array with ``num_axes`` axes.

    Raises:
        UsageError: The file is not such an array, is incomplete, or has more than ``MAX_BYTES``.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * num_axes)
            shape = _shape(path, header, num_axes)
            expected = math.prod(shape)
            values = file.read(expected + 1)  # one more, to detect a file that is too long
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(path, f"its gzip stream is damaged or cut short ({error})") from error
    if len(values) != expected:
        found = f"{len(values)} follow" if len(values) < expected else "more follow"
        raise _damaged(path, f"its header announces {' x '.join(map(str, shape))} bytes, but {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, num_axes: int) -> tuple[int, ...]:
    magic = bytes((0, 0, UINT8_CODE, num_axes))
    if header[:4] != magic:
        raise _damaged(path, f"it starts with 0x{header[:4].hex()}, not with the magic 0x{magic.hex()}")
    if len(header) != 4 + 4 * num_axes:
        raise _damaged(path, f"it ends within its header of {4 + 4 * num_axes} bytes")
    shape: tuple[int, ...] = struct.unpack(f">{num_axes}I", header[4:])
    if math.prod(max(1, length) for length in shape) > MAX_BYTES:
        announced = " x ".join(map(str, shape))
        raise _damaged(path, f"its header announces {announced} bytes, more than {MAX_BYTES}")
    return shape


def _damaged(path: Path, problem: str) -> UsageError:
    return UsageError(f"{path} is not a usable idx file: {problem}. Replace it with a fresh copy.")
