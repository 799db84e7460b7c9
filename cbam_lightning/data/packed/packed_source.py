"""Images written by ``cbam-lightning data pack``, in a folder or in an object store."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cbam_lightning.data.image_files import as_bytes
from cbam_lightning.data.packed.fetching import fetch_bytes
from cbam_lightning.data.packed.packed_dataset import PackedDataset
from cbam_lightning.data.packed.packed_files import PackedFiles
from cbam_lightning.data.packed.packed_index import PACKED_INDEX, PackedIndex, PackedPart
from cbam_lightning.data.packed.shards import INDEX_NAME, ShardInfo, damaged_index, read_index
from cbam_lightning.data.packed.stores import FolderStore, ObjectStore, cache_root, is_url
from cbam_lightning.data.sources import LabelledImages
from cbam_lightning.data.split_dataset import Preparation, as_index
from cbam_lightning.errors import UsageError


def is_packed(root: str) -> bool:
    """Return whether this is a packed set: a URL of an object store, or a folder with the index."""
    return is_url(root) or Path(root, PACKED_INDEX).is_file()


class PackedSource:
    """A packed set.

    Files from an object store are cached in the folder that the environment variable ``LITDATA_CACHE_DIR``
    names (default: ``~/.lightning/chunks``), below ``cbam_lightning`` and a name that depends on the content:
    a set that is packed again gets another.

    Args:
        root: Its folder, or its URL in an object store.

    Attributes:
        name: Name of the folder that held the images.
        parts: As in ``FolderSource``.
        shorter_side_px: Length to which the shorter side was reduced.
        store: Its files.
        index: Its index.

    Raises:
        UsageError: The index is damaged or cannot be read, or LitData is needed and not installed.
    """

    def __init__(self, root: str) -> None:
        where = f"{root.rstrip('/')}/{PACKED_INDEX}"
        try:
            content = fetch_bytes(where) if is_url(root) else Path(where).read_bytes()
        except OSError as error:  # most often a mistyped address
            raise UsageError(f"{error} It was requested by --data.root {root}.") from error
        version = hashlib.sha256(content).hexdigest()[:16]
        self.store = ObjectStore(root, cache_root() / version) if is_url(root) else FolderStore(Path(root))
        self.index = PackedIndex.from_json(content, where)
        self.name = self.index.name
        self.shorter_side_px = self.index.shorter_side_px
        self.parts = tuple(part for part in self.index.parts if part)
        self._files: dict[str, PackedFiles] = {}

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the names of the classes, which are the same in every part."""
        return self.index.classes if part in self.index.parts else ()

    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the images of a part in the order of the folder that they were packed from."""
        packed, files = self.index.parts[part], self.files(part)
        readable = torch.tensor([i not in packed.skipped for i in range(len(packed.names))], dtype=torch.bool)
        labels = as_index(packed.labels(class_names))
        opened = partial(_open_packed, files, readable)
        return LabelledImages(torch.arange(len(labels)), labels, opened, partial(_names_in_classes, packed))

    def files(self, part: str) -> PackedFiles:
        """Return the files of a part, the same for all splits made of it.

        Raises:
            UsageError: The index of the part is damaged.
        """
        if part not in self._files:
            packed = self.index.parts[part]
            prefix = f"{part}/" if part else ""
            shards = self._read_index(prefix + INDEX_NAME, packed.index_sha256)
            if sum(shard.num_images for shard in shards) != len(packed.names):
                problem = f"its shards do not hold the {len(packed.names)} images of {PACKED_INDEX}"
                raise damaged_index(self.store.where(prefix + INDEX_NAME), problem)
            names = as_bytes([prefix + name for name in packed.names])
            slots = as_index(packed.order).argsort()
            self._files[part] = PackedFiles(self.store, prefix, self.index.encoding, shards, names, slots)
        return self._files[part]

    def where(self, part: str) -> str:
        """Return the path or URL of the part's folder."""
        return self.store.where(part)

    def _read_index(self, name: str, sha256: str) -> list[ShardInfo]:
        where = self.store.where(name)
        try:
            content = self.store.path(name).read_bytes()
        except FileNotFoundError:
            raise damaged_index(where, "there is no such file") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            problem = f"it is not the one that {PACKED_INDEX} was written with"
            raise damaged_index(where, problem, self.store.advice(name))
        return read_index(content, self.index.encoding, where)


def _names_in_classes(part: PackedPart) -> list[str]:
    return [name.partition("/")[2] for name in part.names]


def _open_packed(
    files: PackedFiles, readable: Tensor, positions: Tensor, labels: Tensor, preparation: Preparation
) -> PackedDataset:
    """Build the data set of some images; those skipped in packing still count in the splits, and go here."""
    kept = readable[positions]
    dataset = PackedDataset(files, positions[kept], labels[kept], preparation)
    if not (files.store.is_remote and dataset.is_sparse):
        files.store.check(files.sizes())
    return dataset
