"""Image files sorted into one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cbam_lightning.data.cropping import Transform
from cbam_lightning.data.image_files import FileDataset, find_files, visible_entries
from cbam_lightning.data.sources import ImageSource, LabelledImages
from cbam_lightning.errors import UsageError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class LabelledFiles(LabelledImages):
    """Image files with their classes.

    Attributes:
        paths: The files.
        labels: int64 (M,), the class of each file.
    """

    paths: list[str]
    labels: Tensor

    def select(self, positions: Tensor) -> LabelledFiles:
        """Return the files at some positions."""
        return LabelledFiles(
            [self.paths[position] for position in positions.tolist()], self.labels[positions]
        )

    def dataset(self, transform: Transform, channels: Literal[1, 3], size_px: int) -> FileDataset:
        """Make the data set that decodes them."""
        return FileDataset(self.paths, self.labels, transform, channels, size_px)


class FolderSource(ImageSource):
    """``root/<part>/<class>/...`` or ``root/<class>/...``.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            message = f"{root} is not a folder; give the folder of the images with --data.root."
            raise UsageError(message)
        self.root = root
        self.name = root.resolve().name
        self.parts = tuple(part for part in PARTS if (root / part).is_dir())

    def classes(self, part: str) -> tuple[str, ...]:
        """Return the names of the visible folders in the part's folder."""
        return subfolder_names(self.root / part)

    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledFiles:
        """List the files below each class folder."""
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            found = find_files(self.root / part / name)
            if not found:
                folder = self.root / part / name
                message = f"the class folder {folder} is empty; add images or delete the folder."
                raise UsageError(message)
            paths += found
            labels += [label] * len(found)
        return LabelledFiles(paths, torch.tensor(labels, dtype=torch.int64))

    def where(self, part: str) -> str:
        """Return the path of the part's folder."""
        return str(self.root / part)


def subfolder_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the visible folders in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return ()
    return tuple(entry.name for entry in visible_entries(folder) if entry.is_dir())
