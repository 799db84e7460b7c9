"""Image files sorted into one folder a class: reading the layout, and the base of the modules that use it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cbam_lightning.data.base import ImageDataModule
from cbam_lightning.data.files import (
    FileDataset,
    eval_transform,
    find_files,
    train_transform,
    visible_entries,
)
from cbam_lightning.data.options import require
from cbam_lightning.errors import UsageError

# Of the ImageNet training images: the values that torchvision's and the original ResNet weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

EVAL_RESIZE_RATIO = 256 / 224  # of the ten-crop evaluation in https://arxiv.org/abs/1409.1556 and since

LabelledFiles = tuple[list[str], Tensor]


class ClassFolderModule(ImageDataModule):
    """Base of the data modules that read image files from class folders.

    Args:
        root: Folder of the data set.
        size_px: Height and width of the network's input.
        crop_scale: Smallest and largest part of an image's area that training cuts out.
        hflip: Whether training mirrors images left to right with probability 1/2.
        **kwargs: Options of ``ImageDataModule``.
    """

    def __init__(
        self, *, root: str, size_px: int, crop_scale: tuple[float, float], hflip: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require(size_px >= 1, "size_px", size_px, "1 or more")
        smallest, largest = crop_scale
        require(
            0 < smallest <= largest <= 1, "crop_scale", crop_scale, "two ascending parts of 1, more than 0"
        )
        self.root = Path(root)
        self.size_px = size_px
        self.eval_resize_px = round(size_px * EVAL_RESIZE_RATIO)
        self.crop_scale = crop_scale
        self.hflip = hflip
        if not self.root.is_dir():
            message = f"{self.root} is not a folder; give the folder of the images with --data.root."
            raise UsageError(message)

    @abstractmethod
    def list_files(self, split: Literal["train", "val", "test"]) -> LabelledFiles:
        """List the files of a split with their labels, int64 (M,)."""

    def build_split(self, split: Literal["train", "val", "test"]) -> FileDataset:
        """Make the data set of a split."""
        paths, labels = self.list_files(split)
        if not paths:
            message = (
                f"no image of {self.root} is left for {split}: no class has enough images to share. "
                "Add images, or give the split a folder of its own."
            )
            raise UsageError(message)
        if split == "train":
            transform = train_transform(self.size_px, self.crop_scale, self.hflip)
        else:
            transform = eval_transform(self.size_px, self.eval_resize_px)
        return FileDataset(paths, labels, transform, self.in_channels, self.size_px)

    def scan(self, folder: Path) -> LabelledFiles:
        """List the files below each class folder.

        Raises:
            UsageError: A class folder is empty.
        """
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            found = find_files(folder / name)
            if not found:
                message = f"the class folder {folder / name} is empty; add images or delete the folder."
                raise UsageError(message)
            paths += found
            labels += [label] * len(found)
        return paths, torch.tensor(labels, dtype=torch.int64)


def select(files: LabelledFiles, positions: Tensor) -> LabelledFiles:
    """Return the files at some positions, with their labels."""
    paths, labels = files
    return [paths[position] for position in positions.tolist()], labels[positions]


def subfolder_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the visible folders in a folder, sorted; none if it does not exist."""
    if not folder.is_dir():
        return ()
    return tuple(entry.name for entry in visible_entries(folder) if entry.is_dir())


def require_same_classes(folder: Path, expected: tuple[str, ...], expected_in: Path) -> None:
    """Refuse a folder whose class folders are not those of another.

    Raises:
        UsageError: The folders differ.
    """
    found = subfolder_names(folder)
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        message = (
            f"the class folders of {folder} differ from those of {expected_in}: "
            f"missing {', '.join(missing) or 'none'}; extra {', '.join(extra) or 'none'}. Make them the same."
        )
        raise UsageError(message)
