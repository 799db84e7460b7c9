"""Checking all of a packed set: indices, hashes, and files that are missing or do not belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from cbam_lightning.data.image_files import find_files
from cbam_lightning.data.packed.packed_files import PackedFiles
from cbam_lightning.data.packed.packed_index import PACKED_INDEX
from cbam_lightning.data.packed.packed_source import PackedSource, is_packed
from cbam_lightning.data.packed.packing_folder import PLAN_NAME
from cbam_lightning.data.packed.shards import INDEX_NAME, DamagedShardError
from cbam_lightning.data.split_dataset import usable_cores
from cbam_lightning.errors import UsageError


class PackedCheck:
    """A check of a packed set.

    Args:
        root: Its folder, or its URL in an object store; then the shards that are not cached are fetched.

    Attributes:
        source: The packed set.
        files: The files of each part, as far as its index is whole.

    Raises:
        UsageError: There is no packed set, or what describes it is damaged.
    """

    def __init__(self, root: str) -> None:
        if Path(root, PLAN_NAME).is_file():
            raise UsageError(f"{root} holds an unfinished packing; repeat `cbam-lightning data pack`.")
        if not is_packed(root):
            raise UsageError(f"{root} has no {PACKED_INDEX}; give the output of `data pack` with --root.")
        self.source = PackedSource(root)
        self.files: list[PackedFiles] = []

    def faults(self) -> Iterator[str]:
        """Check everything, behind a progress bar, and yield a line for each fault when it is found.

        Raises:
            UsageError: There is no room to fetch the shards.
        """
        for part in self.source.index.parts:
            try:
                self.files.append(self.source.files(part))
            except (UsageError, OSError) as error:
                yield str(error)
        yield from self._surplus()
        if self.source.store.is_remote:
            for files in self.files:
                files.store.check(files.sizes())
        yield from self._damaged()

    def _damaged(self) -> Iterator[str]:
        shards = [(files, number) for files in self.files for number in range(len(files.shards))]
        total = sum(files.shards[number].num_bytes for files, number in shards)
        with (
            tqdm(total=total, desc="checking", unit="B", unit_scale=True, leave=False) as progress,
            ThreadPoolExecutor(usable_cores()) as executor,
        ):
            for (files, number), fault in zip(shards, executor.map(_fault, shards), strict=True):
                progress.update(files.shards[number].num_bytes)
                if fault:
                    progress.clear()
                    yield fault

    def _surplus(self) -> Iterator[str]:
        """Yield the visible files of a folder that do not belong to the set, unless an index is damaged."""
        if self.source.store.is_remote or len(self.files) < len(self.source.index.parts):
            return
        expected = {PACKED_INDEX, *(files.prefix + INDEX_NAME for files in self.files)}
        expected.update(name for files in self.files for name in files.sizes())
        folder = self.source.store.folder
        for path in find_files(folder):
            if Path(path).relative_to(folder).as_posix() not in expected:
                yield f"{path} does not belong to the packed set; delete it, or pack again"

    def describe(self) -> str:
        """Return what was checked, in a line."""
        images = sum(len(part.names) - len(part.skipped) for part in self.source.index.parts.values())
        sizes = [size for files in self.files for size in files.sizes().values()]
        shards = "shard" if len(sizes) == 1 else "shards"
        where = self.source.store.where("")
        return f"{where} is whole: {images} images in {len(sizes)} {shards}, {sum(sizes)} bytes"


def _fault(shard: tuple[PackedFiles, int]) -> str | None:
    """Return what is wrong with a shard."""
    files, number = shard
    name = files.shard_name(number)
    try:
        files.open_shard(number)
    except FileNotFoundError:
        return f"{files.store.where(name)} is missing; {files.store.advice(name)}"
    except DamagedShardError as error:
        return f"{files.store.where(name)} is damaged: {error}; {files.store.advice(name)}"
    except OSError as error:
        return f"{files.store.where(name)} cannot be read: {error.strerror or error}"
    return None
