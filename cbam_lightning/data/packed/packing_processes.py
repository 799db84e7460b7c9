"""Packing ranges of images in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing

import torch
from tqdm import tqdm

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.packed.shard_writer import ImageRange, PackedRange, pack_range
from cbam_lightning.errors import UsageError

_AGAIN = "run the command again: it continues where it stopped"


def pack_ranges(ranges: list[ImageRange], num_workers: int) -> None:
    """Write the shards of all ranges.

    Args:
        ranges: What to write.
        num_workers: Processes; with 1, this one.

    Raises:
        UsageError: A file is not a readable image, and must not be skipped.
        OSError: A file could not be read or written, or a process was killed.
    """
    replaced: dict[str, int] = {}
    try:
        _pack_ranges(ranges, num_workers, replaced)
    finally:
        if replaced:
            message = (
                f"{sum(replaced.values())} of {_count(ranges)} images were packed a second time, and not "
                f"kept from the interrupted packing: {next(iter(replaced))}"
            )
            warnings.warn(message, stacklevel=2)


def _pack_ranges(ranges: list[ImageRange], num_workers: int, replaced: dict[str, int]) -> None:
    """Write the shards, and count the images that an earlier attempt had packed already, by the reason."""
    with (
        tqdm(total=_count(ranges), desc="packing", unit="image", leave=False) as progress,
        closing(_results(ranges, min(num_workers, len(ranges)))) as results,
    ):
        for images, packed in results:
            if packed.replaced:
                replaced[packed.replaced] = replaced.get(packed.replaced, 0) + len(images.paths)
            for bad in packed.bad:
                _raise_unless_skipped(bad, images.on_bad_image)
            progress.update(len(images.paths))


def _count(ranges: list[ImageRange]) -> int:
    return sum(len(images.paths) for images in ranges)


def _results(
    ranges: list[ImageRange], num_workers: int
) -> Generator[tuple[ImageRange, PackedRange], None, None]:
    if num_workers == 1:
        yield from ((images, pack_range(images)) for images in ranges)
        return
    executor = ProcessPoolExecutor(num_workers, initializer=_set_up_process)
    try:
        futures = {executor.submit(pack_range, images): images for images in ranges}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise OSError(f"a packing process was killed, perhaps for lack of memory; {_AGAIN}.") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _set_up_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with the one that started it, which may be killed; else it would pack on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _raise_unless_skipped(bad: BadImage, on_bad_image: str) -> None:
    if bad.errno is not None:
        raise OSError(bad.errno, f"{bad.reason}; {_AGAIN}", bad.path)
    if on_bad_image == "raise":
        raise UsageError(
            f"cannot decode {bad.path}: {bad.reason}; "
            f"replace the file, or add --on-bad-image skip, and {_AGAIN}."
        )
