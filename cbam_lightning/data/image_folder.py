"""Any images sorted into one folder a class."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cbam_lightning.data.class_folders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassFolderModule,
    LabelledFiles,
    require_same_classes,
    select,
    subfolder_names,
)
from cbam_lightning.data.options import require
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.errors import UsageError


class ImageFolder(ClassFolderModule):
    """Images in ``root/<class>/...``, or in ``root/train/<class>/...`` with optional ``val`` and ``test``.

    Without ``test``, the images of ``val`` are both. Without ``val``, a part of ``train`` is held out;
    without either, or with the class folders directly in ``root``, two parts are. Each class keeps at
    least one image to train on.

    Args:
        root: Folder of the images.
        size_px: Height and width of the network's input.
        in_channels: 3 to read images as RGB, 1 as grey values.
        mean: Mean of each channel, of values in [0, 1]; by default that of ImageNet, for one channel the
            average of its three.
        std: Standard deviation of each channel, likewise.
        crop_scale: Smallest and largest part of an image's area that training cuts out.
        hflip: Whether training mirrors images left to right with probability 1/2.
        test_fraction: Part of the images of each class held out for the test, if they have no folder.
        **kwargs: Options of ``ImageDataModule``.
    """

    def __init__(
        self,
        root: str,
        size_px: int = 224,
        in_channels: Literal[1, 3] = 3,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        hflip: bool = True,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, size_px=size_px, crop_scale=crop_scale, hflip=hflip, **kwargs)
        largest = 1 - self.val_fraction
        allowed = f"more than 0, and less than 1 - val_fraction = {largest:g}"
        require(0 < test_fraction < largest, "test_fraction", test_fraction, allowed)
        require(in_channels in (1, 3), "in_channels", in_channels, "1 or 3")
        self.test_fraction = test_fraction
        self.in_channels = in_channels
        self.mean = _per_channel("mean", mean, IMAGENET_MEAN, in_channels)
        self.std = _per_channel("std", std, IMAGENET_STD, in_channels)
        require(min(self.std) > 0, "std", self.std, "values more than 0")
        self.dataset_name = f"image_folder:{self.root.resolve().name}"
        self._train_dir = self.root / "train" if subfolder_names(self.root / "train") else self.root
        self._folders = self._find_folders()
        self.class_names = _class_names(self._train_dir)
        self.num_classes = len(self.class_names)
        for folder in self._folders.values():
            require_same_classes(folder, self.class_names, self._train_dir)

    def list_files(self, split: Literal["train", "val", "test"]) -> LabelledFiles:
        """List the files of a split with their labels."""
        if split in self._folders:
            return self.scan(self._folders[split])
        files, shares = self._train_part
        return select(files, shares["test" if split == "val" and not self.val_fraction else split])

    @cached_property
    def _train_part(self) -> tuple[LabelledFiles, dict[str, Tensor]]:
        """The files of the training folder, and the positions in them of each split."""
        files = self.scan(self._train_dir)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        held_out = [0.0 if split in self._folders else part for split, part in fractions.items()]
        shares = stratified_split(files[1], held_out, self.split_seed)
        return files, dict(zip(("train", *fractions), shares, strict=True))

    def _find_folders(self) -> dict[str, Path]:
        """Return the folders of the validation and test images, as far as there are any."""
        if self._train_dir == self.root:
            return {}
        folders = {name: self.root / name for name in ("val", "test") if (self.root / name).is_dir()}
        if "val" in folders:
            folders.setdefault("test", folders["val"])
        elif "test" in folders and not self.val_fraction:
            folders["val"] = folders["test"]
        return folders


def _class_names(folder: Path) -> tuple[str, ...]:
    names = subfolder_names(folder)
    if len(names) < 2 or set(names) <= {"train", "val", "test"}:
        message = (
            f"{folder} has {len(names)} class folders ({', '.join(names) or 'none'}); needed are two or "
            "more, each named by its class and holding its images, in --data.root or in its folder train."
        )
        raise UsageError(message)
    return names


def _per_channel(
    name: str, given: tuple[float, ...] | None, imagenet: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        return imagenet if channels == 3 else (sum(imagenet) / len(imagenet),)
    require(len(given) == channels, name, given, f"one value for each of the {channels} channels")
    return tuple(given)
