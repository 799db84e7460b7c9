"""Writing a stretch of images as shards, with LitData: the work of one process that packs."""

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
from cbam_lightning.data.files import read_image
from cbam_lightning.data.packed.fetching import litdata_module
from cbam_lightning.data.packed.shards import INDEX_NAME, Encoding
from cbam_lightning.data.transforms import resize_shorter_side
from cbam_lightning.errors import UsageError

SHARD_BYTES = 1 << 26  # LitData's default
JPEG_QUALITY = 90  # as FFCV's ImageNet: https://github.com/libffcv/ffcv-imagenet

_JPEG_MAGIC = b"\xff\xd8\xff"
_AGAIN = "run the command again: it continues where it stopped"


@dataclass(frozen=True)
class Stretch:
    """Consecutive images in the order of the shards, which one process packs.

    Attributes:
        folder: Of the part that is written.
        number: Of the stretch, from 0; its shards are called ``chunk-<number>-<count>.bin``.
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
        """What was left out, as a list of [place in the stretch, reason]."""
        return self.folder / f"{self.number}.skipped.json"


def pack_stretches(stretches: list[Stretch], num_workers: int) -> None:
    """Write the shards of many stretches.

    Args:
        stretches: What to write.
        num_workers: Processes; with 1, this one.

    Raises:
        UsageError: A file is no readable image, and is not to be skipped.
        OSError: A file could not be read or written, or a process was killed.
    """
    total = sum(len(stretch.paths) for stretch in stretches)
    with (
        tqdm(total=total, desc="packing", unit="image", leave=False) as progress,
        closing(_results(stretches, min(num_workers, len(stretches)))) as results,
    ):
        for stretch, bad in results:
            for image in bad:
                _judge(image, stretch.on_bad_image)
            progress.update(len(stretch.paths))


def _results(
    stretches: list[Stretch], num_workers: int
) -> Generator[tuple[Stretch, list[BadImage]], None, None]:
    if num_workers == 1:
        yield from ((stretch, pack_stretch(stretch)) for stretch in stretches)
        return
    executor = ProcessPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {executor.submit(pack_stretch, stretch): stretch for stretch in stretches}
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


def pack_stretch(stretch: Stretch) -> list[BadImage]:
    """Write the shards of a stretch, unless an earlier attempt has done so.

    Returns:
        The images left out; nothing was written if the first of them is a reason to stop.
    """
    if stretch.index_path.exists():
        return []
    bad: dict[int, BadImage] = {}
    with tempfile.TemporaryDirectory(prefix=f".{stretch.number}-", dir=stretch.folder) as folder:
        writer = _writer(Path(folder), stretch.number)
        for place, (path, label) in enumerate(zip(stretch.paths, stretch.labels, strict=True)):
            image = _encoded(path, stretch.encoding, stretch.shorter_side_px)
            if isinstance(image, BadImage):
                bad[place] = image
                if stretch.on_bad_image == "raise" or image.errno is not None:
                    return [image]
                image = b"" if stretch.encoding == "jpeg" else torch.empty((0, 0, 3), dtype=torch.uint8)
            # A tuple: the rows of a dictionary may become Arrow tables, if pyarrow is installed.
            writer.add_item(place, (image, label))
        writer.done()
        _add_digests(Path(folder, stretch.index_path.name))
        reasons = [[place, image.reason] for place, image in bad.items()]
        Path(folder, stretch.skipped_path.name).write_text(json.dumps(reasons))
        written = Path(folder).iterdir()
        for file in sorted(written, key=lambda file: file.name == stretch.index_path.name):  # the index last
            file.replace(stretch.folder / file.name)
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

    class StretchWriter(writer_class):  # type: ignore[misc, valid-type]
        rank = number

    return StretchWriter(str(folder), chunk_bytes=SHARD_BYTES)
