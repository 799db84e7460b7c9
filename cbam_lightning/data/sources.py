"""Sources of labelled images: folders of files, and the interface that packed sets share with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cbam_lightning.data.image_files import FileDataset, find_files, visible_entries
from cbam_lightning.data.split_dataset import ImageDataset, Preparation, as_index
from cbam_lightning.errors import UsageError

PARTS = ("train", "val", "test")


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

    A part is named by its folder: "train", "val" or "test", or "" if the class folders have no parent folder.

    Args:
        root: The folder.

    Attributes:
        name: Name of the folder.
        parts: Those of "train", "val" and "test" that exist.
        shorter_side_px: ``None``, as the images have any size.
    """

    shorter_side_px: None = None

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; give the folder of the images with --data.root.")
        self.root = root
        self.name = root.resolve().name
        self.parts = tuple(part for part in PARTS if (root / part).is_dir())

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the sorted names of the classes in a part; empty if there is no such part."""
        folder = self.root / part
        entries = visible_entries(folder) if folder.is_dir() else []
        return tuple(entry.name for entry in entries if entry.is_dir())

    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the images of a part, sorted by class and name; a label is a position in ``class_names``.

        Raises:
            UsageError: A class folder is empty.
        """
        paths, labels = self.files(part, class_names)
        folders = [str(self.root / part / name) for name in class_names]
        names = partial(_names_in_folders, paths, labels, folders)
        return LabelledImages(torch.arange(len(paths)), as_index(labels), partial(_open_files, paths), names)

    def files(self, part: str, class_names: tuple[str, ...]) -> tuple[list[str], list[int]]:
        """Return the files below each class folder, and their labels.

        Raises:
            UsageError: A class folder is empty.
        """
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            folder = self.root / part / name
            in_class = find_files(folder)
            if not in_class:
                raise UsageError(f"the class folder {folder} is empty; add images or delete the folder.")
            paths += in_class
            labels += [label] * len(in_class)
        return paths, labels

    def where(self, part: str) -> str:
        """Return the path of the part's folder, for messages."""
        return str(self.root / part)


def _names_in_folders(paths: list[str], labels: list[int], folders: list[str]) -> list[str]:
    pairs = zip(paths, labels, strict=True)
    return [path[len(folders[label]) + 1 :].replace(os.sep, "/") for path, label in pairs]


def _open_files(paths: list[str], positions: Tensor, labels: Tensor, preparation: Preparation) -> FileDataset:
    return FileDataset([paths[position] for position in positions.tolist()], labels, preparation)
