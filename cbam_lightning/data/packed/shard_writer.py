"""Writing a image_range of images as shards, with LitData: the work of one process that packs."""

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
    """Consecutive images in the order of the shards, which one process packs.

    Attributes:
        folder: Of the part that is written.
        number: Of the image_range, from 0; its shards are called ``chunk-<number>-<count>.bin``.
        paths: The image files.
        labels: The class of each.
        encoding: How to store an image.
        shorter_side_px: What to shrink images to at most.
        on_bad_image: Whether to stop at a file that is no readable image, or to store nothing in its place.
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
        """LitData's index of these shards alone, which is there once all of them are."""
        return self.folder / f"{self.number}.{INDEX_NAME}"

    @property
    def skipped_path(self) -> Path:
        """What was left out, as a list of [place in the image_range, reason]."""
        return self.folder / f"{self.number}.skipped.json"


def pack_ranges(ranges: list[ImageRange], num_workers: int) -> None:
    """Write the shards of many ranges.

    Args:
        ranges: What to write.
        num_workers: Processes; with 1, this one.

    Raises:
        UsageError: A file is no readable image, and is not to be skipped.
        OSError: A file could not be read or written, or a process was killed.
    """
    total = sum(len(image_range.paths) for image_range in ranges)
    with (
        tqdm(total=total, desc="packing", unit="image", leave=False) as progress,
        closing(_results(ranges, min(num_workers, len(ranges)))) as results,
    ):
        for image_range, bad in results:
            for image in bad:
                _judge(image, image_range.on_bad_image)
            progress.update(len(image_range.paths))


def _results(
    ranges: list[ImageRange], num_workers: int
) -> Generator[tuple[ImageRange, list[BadImage]], None, None]:
    if num_workers == 1:
        yield from ((image_range, pack_range(image_range)) for image_range in ranges)
        return
    executor = ProcessPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {executor.submit(pack_range, image_range): image_range for image_range in ranges}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        message = f"a process that packed was killed, perhaps for want of memory; {_AGAIN}."
        raise OSError(message) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _judge(bad: BadImage, on_bad_image: str) -> None:
    if bad.errno is not None:
        raise OSError(bad.errno, f"{bad.reason}; {_AGAIN}", bad.path)
    if on_bad_image == "raise":
        message = (
            f"cannot decode {bad.path}: {bad.reason}; "
            f"replace the file, or add --on-bad-image skip, and {_AGAIN}."
        )
        raise UsageError(message)


def pack_range(image_range: ImageRange) -> list[BadImage]:
    """Write the shards of a image_range, unless an earlier attempt has done so.

    Returns:
        The images left out; nothing was written if the first of them is a reason to stop.
    """
    if image_range.index_path.exists():
        return []
    bad: dict[int, BadImage] = {}
    with tempfile.TemporaryDirectory(prefix=f".{image_range.number}-", dir=image_range.folder) as folder:
        writer = _writer(Path(folder), image_range.number)
        for place, (path, label) in enumerate(zip(image_range.paths, image_range.labels, strict=True)):
            image = _encoded(path, image_range.encoding, image_range.shorter_side_px)
            if isinstance(image, BadImage):
                bad[place] = image
                if image_range.on_bad_image == "raise" or image.errno is not None:
                    return [image]
                image = b"" if image_range.encoding == "jpeg" else torch.empty((0, 0, 3), dtype=torch.uint8)
            # A tuple: the rows of a dictionary may become Arrow tables, if pyarrow is installed.
            writer.add_item(place, (image, label))
        writer.done()
        _add_digests(Path(folder, image_range.index_path.name))
        reasons = [[place, image.reason] for place, image in bad.items()]
        Path(folder, image_range.skipped_path.name).write_text(json.dumps(reasons))
        written = Path(folder).iterdir()
        for file in sorted(written, key=lambda file: file.name == image_range.index_path.name):
            file.replace(image_range.folder / file.name)
    return list(bad.values())


def _add_digests(index_path: Path) -> None:
    """Let an index depend on what its shards hold: images of other contents get another index, and cache."""
    index = json.loads(index_path.read_text())
    for chunk in index["chunks"]:
        content = index_path.with_name(chunk["filename"]).read_bytes()
        chunk["sha256"] = hashlib.sha256(content).hexdigest()
    index_path.write_text(json.dumps(index))


def _encoded(path: str, encoding: Encoding, shorter_side_px: int) -> Tensor | bytes | BadImage:
    found = read_image(path, channels=3)
    if isinstance(found, BadImage):
        return found
    image, content = found
    fits = min(image.shape[1:]) <= shorter_side_px
    if encoding == "jpeg" and fits and content.startswith(_JPEG_MAGIC):
        return content  # encoding it again would only lose quality
    pixels = (image if fits else resize_shorter_side(image, shorter_side_px)).permute(1, 2, 0).contiguous()
    if encoding == "raw":
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _writer(folder: Path, number: int) -> Any:
    """Make LitData's writer, which names its shards and its index by its rank."""
    writer_class = litdata_module("streaming.writer").BinaryWriter

    class RangeWriter(writer_class):  # type: ignore[misc, valid-type]
        rank = number

    return RangeWriter(str(folder), chunk_bytes=SHARD_BYTES)
