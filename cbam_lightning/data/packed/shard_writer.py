"""Writing a range of images as shards, with LitData, unless that was done before."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.cropping import resize_shorter_side
from cbam_lightning.data.image_files import read_image
from cbam_lightning.data.packed.fetching import litdata_module
from cbam_lightning.data.packed.packing_record import FileState, RangeRecord, changed_files, file_state
from cbam_lightning.data.packed.shards import INDEX_NAME, Encoding

SHARD_BYTES = 1 << 26  # LitData's default
JPEG_QUALITY = 90  # as FFCV's ImageNet: https://github.com/libffcv/ffcv-imagenet

_JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True)
class ImageRange:
    """Consecutive images in the order of the shards, packed by one process.

    Attributes:
        folder: Output folder of the part.
        number: Number of the range, from 0; its shards are called ``chunk-<number>-<count>.bin``.
        names: Paths of the image files relative to the folder of the part.
        paths: The same files, to open them.
        labels: The class of each file.
        encoding: How to store an image.
        shorter_side_px: Largest length of an image's shorter side; larger images are shrunk to it.
        on_bad_image: Whether to stop at a file that is not a readable image, or to store nothing in its
            place.
    """

    folder: Path
    number: int
    names: list[str]
    paths: list[str]
    labels: list[int]
    encoding: Encoding
    shorter_side_px: int
    on_bad_image: Literal["raise", "skip"]

    @property
    def record_path(self) -> Path:
        """What the range was packed from and into; it exists once all of its shards do."""
        return self.folder / f"{self.number}.record.json"

    @property
    def settings(self) -> str:
        """Digest of what decides what is stored, apart from the content of the files."""
        constants = SHARD_BYTES, JPEG_QUALITY, self.encoding, self.shorter_side_px
        return hashlib.sha256(json.dumps([constants, self.names, self.labels]).encode()).hexdigest()

    def shards(self) -> list[Path]:
        """Return the shards of the range that are in the folder."""
        return list(self.folder.glob(f"chunk-{self.number}-*.bin"))


@dataclass(frozen=True)
class PackedRange:
    """What became of a range.

    Attributes:
        bad: The images left out. If packing has to stop at one of them, only this one.
        replaced: Why shards of an earlier attempt were written anew; empty if they were not.
    """

    bad: list[BadImage]
    replaced: str = ""


def pack_range(images: ImageRange) -> PackedRange:
    """Write the shards of a range, unless an earlier attempt has written the same."""
    record = RangeRecord.read(images.record_path)
    outdated = _outdated(images, record)
    if record is not None and not outdated:
        return PackedRange([BadImage(images.paths[position], reason) for position, reason in record.skipped])
    images.record_path.unlink(missing_ok=True)
    for shard in images.shards():
        shard.unlink()
    return PackedRange(_write_range(images), outdated)


def _outdated(images: ImageRange, record: RangeRecord | None) -> str:
    """Return why the shards of an earlier attempt cannot be kept; empty if they can, or there are none."""
    if record is None:
        return "there is no record of the files that it was made of" if images.shards() else ""
    if record.settings != images.settings:
        return "it was made with other settings"
    if changed := changed_files(images.paths, record.states):
        return f"files were changed since, such as {changed[0]}"
    return "" if record.holds(images.folder) else "its shards were changed since"


def _write_range(images: ImageRange) -> list[BadImage]:
    """Write the shards of a range, and the record last.

    Returns:
        The images left out. If packing has to stop at one of them, only this one, and nothing was written.
    """
    bad: dict[int, BadImage] = {}
    states: list[FileState] = []
    with tempfile.TemporaryDirectory(prefix=f".{images.number}-", dir=images.folder) as folder:
        writer = _writer(Path(folder), images.number)
        for position, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
            state, image = _unchanged(path, images.encoding, images.shorter_side_px)
            states.append(state)
            if isinstance(image, BadImage):
                bad[position] = image
                if images.on_bad_image == "raise" or image.errno is not None:
                    return [image]
                image = b"" if images.encoding == "jpeg" else torch.empty((0, 0, 3), dtype=torch.uint8)
            # A tuple, because the rows of a dictionary become Arrow tables if pyarrow is installed.
            writer.add_item(position, (image, label))
        writer.done()
        index = _index_with_digests(Path(folder, f"{images.number}.{INDEX_NAME}"))
        skipped = [(position, image.reason) for position, image in bad.items()]
        record = RangeRecord(images.settings, states, skipped, index["chunks"], index["config"])
        record_path = Path(folder, images.record_path.name)
        record.write(record_path)
        for file in [*Path(folder).glob("chunk-*.bin"), record_path]:
            file.replace(images.folder / file.name)
    return list(bad.values())


def _index_with_digests(path: Path) -> dict[str, Any]:
    """Read an index, and add the shards' hashes."""
    index: dict[str, Any] = json.loads(path.read_text())
    for chunk in index["chunks"]:
        with path.with_name(chunk["filename"]).open("rb") as file:
            chunk["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return index


def _unchanged(
    path: str, encoding: Encoding, shorter_side_px: int
) -> tuple[FileState, Tensor | bytes | BadImage]:
    """Encode an image, and return the state of its file, which must be the same before and after."""
    try:
        state = file_state(path)
        image = _encoded(path, encoding, shorter_side_px)
        if file_state(path) != state:
            return state, BadImage(path, "it was changed while it was packed", errno.EIO)
    except OSError as error:
        return [], BadImage(path, error.strerror or str(error), error.errno or errno.EIO)
    return state, image


def _encoded(path: str, encoding: Encoding, shorter_side_px: int) -> Tensor | bytes | BadImage:
    image = read_image(path, channels=3)
    if isinstance(image, BadImage):
        return image
    fits = min(image.shape[1:]) <= shorter_side_px
    if encoding == "jpeg" and fits and (content := Path(path).read_bytes()).startswith(_JPEG_MAGIC):
        return content  # encoding it again would only lose quality
    pixels = (image if fits else resize_shorter_side(image, shorter_side_px)).permute(1, 2, 0).contiguous()
    if encoding == "raw":
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _writer(folder: Path, number: int) -> Any:
    """Create LitData's writer, which names its shards and its index by its rank."""
    writer_class = litdata_module("streaming.writer").BinaryWriter

    class RangeWriter(writer_class):  # type: ignore[misc, valid-type]
        rank = number

    return RangeWriter(str(folder), chunk_bytes=SHARD_BYTES)
