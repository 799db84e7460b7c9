"""ImageNet-1k (ILSVRC 2012, https://arxiv.org/abs/1409.0575) as one folder a class."""

from __future__ import annotations

import shlex
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cbam_lightning.data.class_folders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassFolderModule,
    require_same_classes,
)
from cbam_lightning.data.folders import FolderSource
from cbam_lightning.data.image_files import visible_entries
from cbam_lightning.data.sources import LabelledImages
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.errors import UsageError

PARTS = ("train", "val")
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")


class ImageNet(ClassFolderModule):
    """ImageNet-1k: ``root/train/<wnid>/*.JPEG`` and ``root/val/<wnid>/*.JPEG``, or packed from them.

    The official validation images, whose accuracy papers report, are the test split here. Checkpoints are
    chosen by a part of the training images that is held out. ``train`` may be absent where only the test
    split is used.

    Args:
        root: Folder that holds train and val; or what ``cbam-lightning data pack`` made of it, a folder or a
            URL such as ``s3://bucket/imagenet``. What comes from a URL is kept in the folder that the
            environment variable ``LITDATA_CACHE_DIR`` names, by default ``~/.lightning/chunks``.
        size_px: Height and width of the network's input.
        val_fraction: Part of the training images of each class held out for validation; 0.01 are 13 of
            a class of 1,300. With 0 none are, and validation shows the official validation images, as
            the test does.
        crop_scale: Smallest and largest part of an image's area that training cuts out.
        hflip: Whether training mirrors images left to right with probability 1/2.
        **kwargs: Options of ``ImageDataModule``.
    """

    in_channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    dataset_name = "imagenet"

    def __init__(
        self,
        root: str = "datasets/imagenet",
        size_px: int = 224,
        val_fraction: float = 0.01,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        hflip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root=root,
            size_px=size_px,
            val_fraction=val_fraction,
            crop_scale=crop_scale,
            hflip=hflip,
            **kwargs,
        )
        self.class_names = self.source.classes("train") or self._classes("val")
        self.num_classes = len(self.class_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The official parts that there are."""
        return tuple(part for part in PARTS if self.source.classes(part))

    def list_images(self, split: Literal["train", "val", "test"]) -> LabelledImages:
        """List the images of a split with their labels."""
        if split == "test" or (split == "val" and not self.val_fraction):
            return self._part("val")
        images, (train, val) = self._train_part
        return images.select(train if split == "train" else val)

    @cached_property
    def _train_part(self) -> tuple[LabelledImages, list[Tensor]]:
        """The official training images, and which of them train and validate."""
        images = self._part("train")
        return images, stratified_split(images.labels, [self.val_fraction], self.split_seed)

    def _part(self, name: str) -> LabelledImages:
        self._classes(name)
        require_same_classes(self.source, name, self.class_names, "train")
        return self.source.images(name, self.class_names)

    def _classes(self, part: str) -> tuple[str, ...]:
        """Return the classes of an official part, or say how to make it."""
        found = self.source.classes(part)
        if found:
            return found
        where = self.source.where(part)
        if not isinstance(self.source, FolderSource):
            message = (
                f"{where} is missing: packed were {', '.join(self.source.parts) or 'other parts'}. Pack it."
            )
            raise UsageError(message)
        if Path(where).is_dir() and visible_entries(where):
            problem = f"{where} holds files that are not sorted into one folder a class; delete it and "
        elif any(Path(self.root, archive).is_file() for archive in ARCHIVES):
            problem = f"{self.root} holds the official archives, but no folder {part} made from them; "
        else:
            problem = (
                f"{where} holds no class folders; give the folder of train and val with --data.root, or "
            )
        message = problem + self._unpacking()
        raise UsageError(message)

    def _unpacking(self) -> str:
        """Say how to unpack the official archives; torchvision names the folder of a class by its wnid."""
        missing = [archive for archive in ARCHIVES if not Path(self.root, archive).is_file()]
        first = f"put the official {', '.join(missing)} into {self.root}, then " if missing else ""
        code = f"from torchvision.datasets import ImageNet; [ImageNet({self.root!r}, s) for s in {PARTS}]"
        return (
            f"{first}unpack the archives into train and val as needed here (this needs SciPy): "
            f"python -c {shlex.quote(code)}"
        )
