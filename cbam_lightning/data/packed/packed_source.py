"""Images that ``cbam-lightning data pack`` wrote, in a folder or in an object store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cbam_lightning.data.cropping import Transform
from cbam_lightning.data.image_files import as_bytes
from cbam_lightning.data.packed.fetching import fetch_bytes
from cbam_lightning.data.packed.packed_dataset import PackedDataset, PackedFiles
from cbam_lightning.data.packed.packed_index import PACKED_INDEX, PackedIndex
from cbam_lightning.data.packed.shards import INDEX_NAME, ShardInfo, damaged_index, read_index
from cbam_lightning.data.packed.stores import FolderStore, ObjectStore, cache_root, is_url
from cbam_lightning.data.sources import ImageSource, LabelledImages
from cbam_lightning.errors import UsageError


def is_packed(root: str) -> bool:
    """Tell whether this is a packed set: a place in an object store, or a folder with its index."""
    return is_url(root) or Path(root, PACKED_INDEX).is_file()


@dataclass(frozen=True)
class PackedImages(LabelledImages):
    """Packed images with their classes.

    Attributes:
        files: The part.
        skipped: Positions in it whose files could not be read when it was packed.
        positions: int64 (M,), which of its images these are.
        labels: int64 (M,), the class of each of them.
    """

    files: PackedFiles
    skipped: frozenset[int]
    positions: Tensor
    labels: Tensor

    def select(self, positions: Tensor) -> PackedImages:
        """Return the images at some positions."""
        return PackedImages(self.files, self.skipped, self.positions[positions], self.labels[positions])

    def dataset(self, transform: Transform, channels: Literal[1, 3], size_px: int) -> PackedDataset:
        """Make the data set that decodes them, without those that were skipped.

        They are left out here, and not before, so that the splits are those of the folder.
        """
        readable = [position not in self.skipped for position in self.positions.tolist()]
        kept = torch.tensor(readable, dtype=torch.bool)
        positions, labels = self.positions[kept], self.labels[kept]
        dataset = PackedDataset(self.files, positions, labels, transform, channels, size_px)
        if isinstance(self.files.store, ObjectStore) and not dataset.is_sparse:
            self.files.store.check_room(self.files.sizes())
        return dataset


class PackedSource(ImageSource):
    """A packed set.

    What comes from an object store is kept in the folder that the environment variable
    ``LITDATA_CACHE_DIR`` names, by default ``~/.lightning/chunks``, below ``cbam_lightning`` and a name of
    this very set: packed again, it gets another.

    Args:
        root: Its folder, or its URL in an object store.

    Raises:
        UsageError: The index is damaged or cannot be read, or LitData is needed and not installed.
    """

    def __init__(self, root: str) -> None:
        where = f"{root.rstrip('/')}/{PACKED_INDEX}"
        try:
            content = fetch_bytes(where) if is_url(root) else Path(where).read_bytes()
        except OSError as error:  # most often a mistyped address
            message = f"{error} It was asked for with --data.root {root}."
            raise UsageError(message) from error
        version = hashlib.sha256(content).hexdigest()[:16]
        self._store = ObjectStore(root, cache_root() / version) if is_url(root) else FolderStore(Path(root))
        self._index = PackedIndex.from_json(content, where)
        self.name = self._index.name
        self.shorter_side_px = self._index.shorter_side_px
        self.parts = tuple(part for part in self._index.parts if part)

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the names of the classes, which are the same in every part."""
        return self._index.classes if part in self._index.parts else ()

    def images(self, part: str, class_names: tuple[str, ...]) -> PackedImages:
        """List the images of a part in the order of the folder that they were packed from."""
        packed = self._index.parts[part]
        prefix = f"{part}/" if part else ""
        shards = self._read_index(prefix + INDEX_NAME, packed.index_sha256)
        if sum(shard.num_images for shard in shards) != len(packed.names):
            problem = f"its shards do not hold the {len(packed.names)} images of {PACKED_INDEX}"
            raise damaged_index(self._store.where(prefix + INDEX_NAME), problem)
        names = as_bytes([prefix + name for name in packed.names])
        files = PackedFiles(self._store, prefix, self._index.encoding, shards, names, _inverse(packed.order))
        if isinstance(self._store, FolderStore):
            _check_lengths(self._store, files.sizes())
        labels = torch.tensor(packed.labels(class_names), dtype=torch.int64)
        return PackedImages(files, frozenset(packed.skipped), torch.arange(len(labels)), labels)

    def where(self, part: str) -> str:
        """Return the path or the URL of the part's folder."""
        return self._store.where(part)

    def _read_index(self, name: str, sha256: str) -> list[ShardInfo]:
        where = self._store.where(name)
        try:
            content = self._store.path(name).read_bytes()
        except FileNotFoundError:
            raise damaged_index(where, "there is no such file") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise damaged_index(where, f"it is not the one that {PACKED_INDEX} was written with")
        return read_index(content, self._index.encoding, where)


def _check_lengths(store: FolderStore, sizes: dict[str, int]) -> None:
    """Find shards that are missing or cut short before the training, not in the middle of it."""
    for name, size in sizes.items():
        path = store.path(name)
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            message = f"{path} has {found} bytes instead of {size}; copy it again, or pack again."
            raise UsageError(message)


def _inverse(order: list[int]) -> Tensor:
    places = torch.empty(len(order), dtype=torch.int64)
    places[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    return places
