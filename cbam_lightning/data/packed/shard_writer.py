"""Writing ranges of images as shards, with LitData and a pool of worker processes."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.cropping import resize_shorter_side
from cbam_lightning.data.image_files import read_image
from cbam_lightning.data.packed.fetching import litdata_module
from cbam_lightning.data.packed.shards import INDEX_NAME, Encoding
from cbam_lightning.errors import UsageError

SHARD_BYTES = 1 << 26  # LitData's default
JPEG_QUALITY = 90  # as FFCV's ImageNet: https://github.com/libffcv/ffcv-imagenet

_JPEG_MAGIC = b"\xff\xd8\xff"
_AGAIN = "run the command again: it continues where it stopped"


@dataclass(frozen=True)
class ImageRange:
    """Consecutive images in the order of the shards, packed by one process.

    Attributes:
        folder: Output folder of the part.
        number: Number of the range, from 0; its shards are called ``chunk-<number>-<count>.bin``.
        paths: The image files.
        labels: The class of each file.
        encoding: How to store an image.
        shorter_side_px: Largest length of an image's shorter side; larger images are shrunk to it.
        on_bad_image: Whether to stop at a file that is not a readable image, or to store nothing in its
            place.
    """

    folder: Path
    number: int
    paths: list[str]
    labels: list[int]
    encoding: Encoding
    shorter_side_px: int
    on_bad_image: Literal["raise", "skip"]

    @property
    def index_path(self) -> Path:
        """LitData's index of these shards alone; it exists once all of them do."""
        return self.folder / f"{self.number}.{INDEX_NAME}"

    @property
    def skipped_path(self) -> Path:
        """List of [position in the range, reason] for the files that were left out."""
        return self.folder / f"{self.number}.skipped.json"


def pack_ranges(ranges: list[ImageRange], num_workers: int) -> None:
    """Write the shards of all ranges.

    Args:
        ranges: What to write.
        num_workers: Processes; with 1, this one.

    Raises:
        UsageError: A file is not a readable image, and must not be skipped.
        OSError: A file could not be read or written, or a process was killed.
    """
    total = sum(len(images.paths) for images in ranges)
    with (
        tqdm(total=total, desc="packing", unit="image", leave=False) as progress,
        closing(_results(ranges, min(num_workers, len(ranges)))) as results,
    ):
        for images, bad_images in results:
            for bad in bad_images:
                _raise_unless_skipped(bad, images.on_bad_image)
            progress.update(len(images.paths))


def _results(
    ranges: list[ImageRange], num_workers: int
) -> Generator[tuple[ImageRange, list[BadImage]], None, None]:
    if num_workers == 1:
        yield from ((images, pack_range(images)) for images in ranges)
        return
    executor = ProcessPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {executor.submit(pack_range, images): images for images in ranges}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise OSError(f"a packing process was killed, perhaps for lack of memory; {_AGAIN}.") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _raise_unless_skipped(bad: BadImage, on_bad_image: str) -> None:
    if bad.errno is not None:
        raise OSError(bad.errno, f"{bad.reason}; {_AGAIN}", bad.path)
    if on_bad_image == "raise":
        raise UsageError(
            f"cannot decode {bad.path}: {bad.reason}; "
            f"replace the file, or add --on-bad-image skip, and {_AGAIN}."
        )


def pack_range(images: ImageRange) -> list[BadImage]:
    """Write the shards of a range, unless an earlier attempt has done so.

    Returns:
        The images left out. If packing has to stop at one of them, only this one, and nothing was written.
    """
    if images.index_path.exists():
        return []
    bad: dict[int, BadImage] = {}
    with tempfile.TemporaryDirectory(prefix=f".{images.number}-", dir=images.folder) as folder:
        writer = _writer(Path(folder), images.number)
        for position, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
            image = _encoded(path, images.encoding, images.shorter_side_px)
            if isinstance(image, BadImage):
                bad[position] = image
                if images.on_bad_image == "raise" or image.errno is not None:
                    return [image]
                image = b"" if images.encoding == "jpeg" else torch.empty((0, 0, 3), dtype=torch.uint8)
            # A tuple, because the rows of a dictionary become Arrow tables if pyarrow is installed.
            writer.add_item(position, (image, label))
        writer.done()
        _add_digests(Path(folder, images.index_path.name))
        reasons = [[position, image.reason] for position, image in bad.items()]
        Path(folder, images.skipped_path.name).write_text(json.dumps(reasons))
        index_last = sorted(Path(folder).iterdir(), key=lambda file: file.name == images.index_path.name)
        for file in index_last:
            file.replace(images.folder / file.name)
    return list(bad.values())


def _add_digests(index_path: Path) -> None:
    """Add the shards' hashes to an index, so that other image contents give another index, and cache."""
    index = json.loads(index_path.read_text())
    for chunk in index["chunks"]:
        content = index_path.with_name(chunk["filename"]).read_bytes()
        chunk["sha256"] = hashlib.sha256(content).hexdigest()
    index_path.write_text(json.dumps(index))


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
