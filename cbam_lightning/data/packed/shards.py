"""Shards: files of many images in LitData's format, with random access to each image.

A shard starts with a table of uint32, [number of items, start of each item, end of the last one], followed by
the items (``BinaryWriter._create_chunk`` in LitData's streaming/writer.py). An item has two leaves, the image
and its label: first their sizes in bytes, as two uint32, then the leaves. LitData's own reader is not used:
it copies whole images, and it unpickles whatever an index declares to be a pickle.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from cbam_lightning.data.image_decoding import UndecodableError, check_aspect_ratio, decode_image, from_pillow
from cbam_lightning.errors import UsageError

Encoding = Literal["raw", "jpeg"]
Read = Callable[[int, int], Tensor]

INDEX_NAME = "index.json"  # LitData's index, one per part, next to its shards

# LitData's names for the leaves: a tensor with its shape, or bytes; and the label.
DATA_FORMATS: dict[Encoding, list[str]] = {"raw": ["tensor", "int"], "jpeg": ["bytes", "int"]}

# Features of LitData that shards of this package do not use.
_PLAIN = {
    "compression": None,
    "compression_level": None,
    "ipc_compression": None,
    "encryption": None,
    "item_loader": "PyTreeLoader",
}

# Raised when JSON of another form is read as an index; numbers may be Infinity.
INDEX_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

# Names come from an untrusted index and are joined to a path.
_SHARD_NAME = re.compile(r"chunk-\d+-\d+\.bin")

_ITEM_HEADER = struct.Struct("<2I")  # lengths of the image and of the label
_TENSOR_HEADER = struct.Struct(">5I")  # dtype, number of axes, height, width, channels
_UINT8 = 11  # in LitData's _TORCH_DTYPES_MAPPING


class DamagedShardError(ValueError):
    """A shard does not match its index; the message is the reason, without the file name."""


@dataclass(frozen=True)
class ShardInfo:
    """The entry of a shard in an index.

    Attributes:
        name: Name of the file.
        num_images: Number of images.
        num_bytes: Length of the file.
        sha256: SHA-256 of the file, in hexadecimal digits.
    """

    name: str
    num_images: int
    num_bytes: int
    sha256: str


def read_index(content: bytes, encoding: Encoding, where: str) -> list[ShardInfo]:
    """Read LitData's index of a part.

    Args:
        content: Content of the file.
        encoding: Expected encoding of the images.
        where: Path or URL of the file, for error messages.

    Raises:
        UsageError: It is not such an index, or the items are not images with labels.
    """
    try:
        index: dict[str, Any] = json.loads(content)
        config, chunks = index["config"], index["chunks"]
        shards = [_shard_info(chunk) for chunk in chunks]
        data_format = config["data_format"]
        unusual = [name for name, value in _PLAIN.items() if config.get(name) != value]
    except INDEX_ERRORS as error:
        raise damaged_index(where, "it is not an index of LitData") from error
    if data_format != DATA_FORMATS[encoding]:
        problem = f"its items are {data_format!r:.80}, not {DATA_FORMATS[encoding]}; none of them was read"
        raise damaged_index(where, problem)
    if unusual:
        raise damaged_index(where, f"it was not written by `data pack`, which sets no {', '.join(unusual)}")
    for shard in shards:
        if not _SHARD_NAME.fullmatch(shard.name) or shard.num_images < 1:
            raise damaged_index(where, f"{shard.name!r:.80} with {shard.num_images} images is not a shard")
    return shards


def _shard_info(chunk: dict[str, Any]) -> ShardInfo:
    sizes = int(chunk["chunk_size"]), int(chunk["chunk_bytes"])
    return ShardInfo(str(chunk["filename"]), *sizes, str(chunk["sha256"]))


def damaged_index(where: str, problem: str, advice: str = "copy it again, or pack again") -> UsageError:
    """Build the error for an index that cannot be used."""
    return UsageError(f"{where} cannot be used: {problem}; {advice}.")


class Shard:
    """The images of one shard.

    Args:
        read: Returns the bytes of the shard between two positions, as uint8 (end - start,).
        info: Entry of the shard in its index.

    Raises:
        DamagedShardError: Its table is damaged.
        OSError: It cannot be read.
    """

    def __init__(self, read: Read, info: ShardInfo) -> None:
        table_bytes = 4 * (info.num_images + 2)
        table = read(0, table_bytes).view(torch.int32).tolist() if table_bytes <= info.num_bytes else [0]
        bounds = table[1:]
        whole = table[0] == info.num_images and (bounds[0], bounds[-1]) == (table_bytes, info.num_bytes)
        if not whole or bounds != sorted(bounds):
            raise DamagedShardError("its table of images is damaged")
        self._read = read
        self._bounds: list[int] = bounds

    def image(self, index: int) -> Tensor:
        """Return an image as it is stored: uint8 (number of bytes,), empty if it was left out.

        Raises:
            DamagedShardError: The sizes of the leaves do not fit.
            OSError: It cannot be read.
        """
        item = self._read(self._bounds[index], self._bounds[index + 1])
        header = bytes(item[: _ITEM_HEADER.size].numpy())
        size, label_size = _ITEM_HEADER.unpack(header) if len(header) == _ITEM_HEADER.size else (0, 0)
        if _ITEM_HEADER.size + size + label_size != len(item):
            raise DamagedShardError("its place in the shard is damaged")
        return item[_ITEM_HEADER.size :][:size]


def decode(image: Tensor, encoding: Encoding, channels: Literal[1, 3]) -> Tensor:
    """Decode an image from a shard.

    Args:
        image: uint8 (number of bytes,).
        encoding: How it is stored.
        channels: C, 1 for greyscale (luma of ITU-R 601) or 3 for RGB.

    Returns:
        uint8 (C, H, W).

    Raises:
        UndecodableError: The image is damaged, or one side is over 100 times the other.
    """
    if encoding == "jpeg":
        return decode_image(bytes(image.numpy()), channels)
    header = bytes(image[: _TENSOR_HEADER.size].numpy())
    if len(header) == _TENSOR_HEADER.size:
        dtype, axes, height, width, depth = _TENSOR_HEADER.unpack(header)
        num_values = len(image) - len(header)
        if (dtype, axes, depth) == (_UINT8, 3, 3) and 0 < num_values == 3 * height * width:
            check_aspect_ratio(width, height)
            pixels = image[len(header) :].view(height, width, 3)
            if channels == 3:
                return pixels.permute(2, 0, 1)
            return from_pillow(Image.fromarray(pixels.numpy()), channels)
    raise UndecodableError("its shape is damaged")
