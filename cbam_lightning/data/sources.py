"""Sources of labelled images: folders of files, and the interface that packed sets share with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cbam_lightning.data.cropping import Transform
from cbam_lightning.data.image_files import FileDataset, find_files, visible_entries
from cbam_lightning.data.split_dataset import ImageDataset, as_index
from cbam_lightning.errors import UsageError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes, not read yet.

    Attributes:
        positions: int64 (M,), which images of their part these are.
        labels: int64 (M,), the class of each image.
        open: Builds the data set that reads them, from positions, labels, transform, channels and size.
    """

    positions: Tensor
    labels: Tensor
    open: Callable[[Tensor, Tensor, Transform, Literal[1, 3], int], ImageDataset]

    def select(self, chosen: Tensor) -> LabelledImages:
        """Return the images at some positions among these, int64 (K,)."""
        return replace(self, positions=self.positions[chosen], labels=self.labels[chosen])

    def dataset(self, transform: Transform, channels: Literal[1, 3], size_px: int) -> ImageDataset:
        """Build the data set that reads them.

        Args:
            transform: From uint8 (C, H, W) of any size to uint8 (C, size_px, size_px).
            channels: C, 1 for greyscale or 3 for RGB.
            size_px: Height and width after the transform.
        """
        return self.open(self.positions, self.labels, transform, channels, size_px)


class ImageSource(ABC):
    """Images sorted by class, in parts.

    A part is named by its folder: "train", "val" or "test", or "" if the class folders have no parent folder.

    Attributes:
        name: Name of the folder that holds the images, or held them before they were packed.
        parts: Those of "train", "val" and "test" that exist.
        shorter_side_px: Length to which the shorter side was reduced; ``None`` if it was not.
    """

    name: str
    parts: tuple[str, ...]
    shorter_side_px: int | None = None

    @abstractmethod
    def classes(self, part: str) -> tuple[str, ...]:
        """Return the sorted names of the classes in a part; empty if there is no such part."""

    @abstractmethod
    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the images of a part, sorted by class and name; a label is a position in ``class_names``.

        Raises:
            UsageError: A class is empty, or the part is incomplete.
        """

    @abstractmethod
    def where(self, part: str) -> str:
        """Return the path or URL of a part, for messages."""


class FolderSource(ImageSource):
    """Image files in ``root/<part>/<class>/...`` or ``root/<class>/...``.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; give the folder of the images with --data.root.")
        self.root = root
        self.name = root.resolve().name
        self.parts = tuple(part for part in PARTS if (root / part).is_dir())

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the names of the visible folders in the part's folder."""
        folder = self.root / part
        entries = visible_entries(folder) if folder.is_dir() else []
        return tuple(entry.name for entry in entries if entry.is_dir())

    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the files below each class folder."""
        paths, labels = self.files(part, class_names)
        return LabelledImages(torch.arange(len(paths)), as_index(labels), partial(_open_files, paths))

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
        """Return the path of the part's folder."""
        return str(self.root / part)


def _open_files(paths: list[str], positions: Tensor, labels: Tensor, *options: Any) -> FileDataset:
    return FileDataset([paths[position] for position in positions.tolist()], labels, *options)
