"""Packing class folders into shards, which are read many times faster than the files."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.data.class_folders import ClassFolderModule
from cbam_lightning.data.packed.fetching import litdata_module
from cbam_lightning.data.packed.packed_index import PACKED_INDEX, PackedIndex, PackedPart, PackingSummary
from cbam_lightning.data.packed.packing_folder import claimed
from cbam_lightning.data.packed.packing_processes import pack_ranges
from cbam_lightning.data.packed.packing_record import RangeRecord, changed_files
from cbam_lightning.data.packed.shard_writer import ImageRange
from cbam_lightning.data.packed.shards import DATA_FORMATS, INDEX_NAME, Encoding
from cbam_lightning.data.sources import FolderSource
from cbam_lightning.data.split_dataset import usable_cores
from cbam_lightning.data.splits import shuffled_by_class
from cbam_lightning.errors import UsageError
from cbam_lightning.files import atomic_write

IMAGES_PER_RANGE = 2048  # about eight raw shards, or one of JPEG
ORDER_SEED = 0


@dataclass(frozen=True)
class Part:
    """A part to pack.

    Attributes:
        name: Name of the part.
        folder: Output folder.
        names: Paths of the images relative to the part's folder, in its order.
        order: Positions in ``names`` in the order of the shards. Images that may be trained on are shuffled,
            so that any few shards are a fair sample; the others are not, so that they are read sequentially.
        ranges: The images in this order, cut into ranges.
    """

    name: str
    folder: Path
    names: list[str]
    order: list[int]
    ranges: list[ImageRange]


def pack(
    data: ClassFolderModule,
    out: str | Path,
    *,
    encoding: Encoding = "raw",
    shorter_side_px: int = 256,
    on_bad_image: Literal["raise", "skip"] = "raise",
    num_workers: int | None = None,
) -> PackingSummary:
    """Write the images of class folders as shards; an interrupted attempt is continued.

    Of an earlier attempt, only shards whose files still have the same size and times are kept.

    Args:
        data: A data module whose root is a folder of image files.
        out: Output folder: new, empty, or from an interrupted attempt with the same options.
        encoding: "raw" for pixels, which are read fastest, or "jpeg" for about a tenth of the bytes.
        shorter_side_px: Largest length of an image's shorter side; larger images are shrunk to it.
        on_bad_image: What to do with a file that is not a readable image: stop, or leave it out.
        num_workers: Processes. Default: one per processor core.

    Raises:
        UsageError: An option is wrong, the folder is not free, a file is not a readable image or was changed
            after it was packed, or LitData is not installed.
        OSError: A file could not be read or written.
    """
    out = Path(out)
    source = _checked_source(data, encoding, shorter_side_px, on_bad_image, num_workers)
    options = encoding, shorter_side_px, on_bad_image
    parts = [_part(data, source, name, out / name, *options) for name in data.part_names]
    with claimed(out, _plan(data, parts, encoding, shorter_side_px)):
        for part in parts:
            part.folder.mkdir(exist_ok=True)
        ranges = [images for part in parts for images in part.ranges]
        pack_ranges(ranges, num_workers or usable_cores())
        _check_unchanged(ranges)
        packed = {part.name: _finish_part(part) for part in parts}
        index = PackedIndex(source.name, data.class_names, encoding, shorter_side_px, packed)
        _write(out / PACKED_INDEX, index.to_json())
        for part in parts:
            _clean(part.folder)
    shards = [shard.stat().st_size for part in parts for shard in part.folder.glob("chunk-*.bin")]
    return PackingSummary(index, len(shards), sum(shards))


def _checked_source(
    data: ClassFolderModule, encoding: str, shorter_side_px: int, on_bad_image: str, num_workers: int | None
) -> FolderSource:
    litdata_module("streaming.writer")
    if not isinstance(data.source, FolderSource):
        raise UsageError(f"{data.root} is packed already; give the folder of the image files with --root.")
    check_choice("encoding", encoding, DATA_FORMATS)
    check_choice("value of --on-bad-image", on_bad_image, ("raise", "skip"))
    check_positive("--shorter-side-px", shorter_side_px)
    if num_workers is not None:
        check_positive("--num-workers", num_workers)
    return data.source


def _part(data: ClassFolderModule, source: FolderSource, name: str, folder: Path, *options: Any) -> Part:
    paths, labels = source.files(name, data.class_names)
    if not paths:
        raise UsageError(f"the class folders of {source.where(name)} are empty; add images, or delete it.")
    names = [Path(path).relative_to(source.where(name)).as_posix() for path in paths]
    order = list(range(len(names)))
    if name in ("", "train"):
        (order,) = shuffled_by_class([0] * len(names), ORDER_SEED).values()
    ranges = []
    for number, start in enumerate(range(0, len(order), IMAGES_PER_RANGE)):
        chosen = order[start : start + IMAGES_PER_RANGE]
        files = [names[i] for i in chosen], [paths[i] for i in chosen], [labels[i] for i in chosen]
        ranges.append(ImageRange(folder, number, *files, *options))
    return Part(name, folder, names, order, ranges)


def _plan(data: ClassFolderModule, parts: list[Part], encoding: str, shorter_side_px: int) -> dict[str, Any]:
    digests = {part.name: hashlib.sha256(json.dumps(part.names).encode()).hexdigest() for part in parts}
    options = {"encoding": encoding, "shorter_side_px": shorter_side_px, "classes": list(data.class_names)}
    return {**options, "images": digests}


def _check_unchanged(ranges: list[ImageRange]) -> None:
    """Raise a ``UsageError`` if files are not those that were packed, perhaps hours ago."""
    changed = []
    for images in ranges:
        changed += changed_files(images.paths, _record(images).states)
    if changed:
        raise UsageError(
            f"{len(changed)} image files were changed or removed after they were packed, such as "
            f"{changed[0]}; run the command again: it packs them again."
        )


def _record(images: ImageRange) -> RangeRecord:
    record = RangeRecord.read(images.record_path)
    if record is None:
        raise OSError(f"{images.record_path} is missing or damaged; run the command again.")
    return record


def _finish_part(part: Part) -> PackedPart:
    """Join the records of a part's ranges into LitData's index of the part."""
    records = [_record(images) for images in part.ranges]
    chunks = [chunk for record in records for chunk in record.chunks]
    content = json.dumps({"chunks": chunks, "config": records[0].config}, sort_keys=True)
    _write(part.folder / INDEX_NAME, content)
    for path in set(part.folder.glob("chunk-*.bin")) - {part.folder / chunk["filename"] for chunk in chunks}:
        path.unlink()  # of an earlier attempt by another version
    skipped = {
        part.order[images.number * IMAGES_PER_RANGE + offset]: reason
        for images, record in zip(part.ranges, records, strict=True)
        for offset, reason in record.skipped
    }
    return PackedPart(part.names, part.order, skipped, hashlib.sha256(content.encode()).hexdigest())


def _clean(folder: Path) -> None:
    """Delete what was only needed to continue, and what killed processes left behind."""
    for path in folder.glob("[0-9]*.json"):
        path.unlink()
    for path in folder.glob(".[0-9]*-*"):
        shutil.rmtree(path)


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content.encode())
