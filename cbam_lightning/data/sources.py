"""Sources of labelled images: folders of files, and the interface that packed sets share with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cbam_lightning.data.folder_layout import class_folders, count_images, find_parts, require_clear, unused
from cbam_lightning.data.image_files import FileDataset, find_files, visible_entries
from cbam_lightning.data.split_dataset import ImageDataset, Preparation, as_index
from cbam_lightning.errors import UsageError


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes, not read yet.

    Attributes:
        positions: int64 (M,), which images of their part these are.
        labels: int64 (M,), the class of each image.
        open: Builds the data set that reads them.
        names: Returns the path of each image of the part, relative to its class folder and with slashes.
    """

    positions: Tensor
    labels: Tensor
    open: Callable[[Tensor, Tensor, Preparation], ImageDataset]
    names: Callable[[], list[str]]

    def select(self, chosen: Tensor) -> LabelledImages:
        """Return the images at some positions among these, int64 (K,)."""
        return replace(self, positions=self.positions[chosen], labels=self.labels[chosen])

    def dataset(self, preparation: Preparation) -> ImageDataset:
        """Build the data set that reads them."""
        return self.open(self.positions, self.labels, preparation)


class FolderSource:
    """Image files in ``root/<part>/<class>/...`` or ``root/<class>/...``.

    A part is named "train", "val" or "test", whatever the usual name of its folder, or "" if the class
    folders have no parent folder.

    Args:
        root: The folder.

    Attributes:
        name: Name of the folder.
        parts: Those of "train", "val" and "test" that have class folders.
        shorter_side_px: ``None``, as the images have any size.

    Raises:
        UsageError: There is no such folder, or two folders are one part.
    """

    shorter_side_px: None = None

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; give the folder of the images with --data.root.")
        self.root = root
        self.name = root.resolve().name
        self._folders = find_parts(root)
        self.parts = tuple(part for part in self._folders if self.classes(part))

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the sorted names of the classes in a part; empty if there is no such part."""
        return tuple(class_folders(self._folder(part)))

    def _folder(self, part: str) -> Path:
        return self._folders.get(part, self.root / part)

    def require_clear(self) -> None:
        """Raise a ``UsageError`` if folders may be parts or classes; see ``folder_layout``."""
        require_clear(self.root, self._folders)

    def without_classes(self) -> dict[str, int]:
        """Return the parts that have no class folders, and how many entries are in them."""
        return {p: len(visible_entries(f)) for p, f in self._folders.items() if p not in self.parts}

    def loose(self, part: str) -> int:
        """Return the number of images in a part's folder that are in no class folder."""
        return count_images(self._folder(part))

    def unused(self) -> list[str]:
        """Return the names of the folders beside those of the parts."""
        return unused(self.root, self._folders) if self._folders else []

    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the images of a part, sorted by class and name; a label is a position in ``class_names``.

        Raises:
            UsageError: A class folder is empty.
        """
        paths, labels = self.files(part, class_names)
        found = class_folders(self._folder(part))
        folders = [str(found.get(name, "")) for name in class_names]
        names = partial(_names_in_folders, paths, labels, folders)
        return LabelledImages(torch.arange(len(paths)), as_index(labels), partial(_open_files, paths), names)

    def files(self, part: str, class_names: tuple[str, ...]) -> tuple[list[str], list[int]]:
        """Return the files below each class folder, and their labels.

        Raises:
            UsageError: A class folder of the training images is empty.
        """
        paths: list[str] = []
        labels: list[int] = []
        folders = class_folders(self._folder(part))
        for label, name in enumerate(class_names):
            in_class = find_files(folders[name]) if name in folders else []
            if not in_class and part in ("", "train"):
                raise UsageError(
                    f"the class folder {self._folder(part) / name} is empty; add images or delete the folder."
                )
            paths += in_class
            labels += [label] * len(in_class)
        return paths, labels

    def where(self, part: str) -> str:
        """Return the path of the part's folder, for messages."""
        return str(self._folder(part))


def _names_in_folders(paths: list[str], labels: list[int], folders: list[str]) -> list[str]:
    pairs = zip(paths, labels, strict=True)
    return [path[len(folders[label]) + 1 :].replace(os.sep, "/") for path, label in pairs]


def _open_files(paths: list[str], positions: Tensor, labels: Tensor, preparation: Preparation) -> FileDataset:
    return FileDataset([paths[position] for position in positions.tolist()], labels, preparation)
