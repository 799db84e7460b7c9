"""ImageNet-1k (ILSVRC 2012, https://arxiv.org/abs/1409.0575) as one folder per class."""

from __future__ import annotations

import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from cbam_lightning.data import class_folders
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.image_files import visible_entries
from cbam_lightning.data.sources import FolderSource, LabelledImages
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.errors import UsageError

PARTS = ("train", "val")
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")


class ImageNet(class_folders.ClassFolderModule):
    """ImageNet-1k: ``root/train/<wnid>/*.JPEG`` and ``root/val/<wnid>/*.JPEG``, or packed from them.

    The official validation images, for which papers report accuracy, are the test split here. Checkpoints are
    chosen by held-out training images. ``train`` may be missing if only the test split is used.

    Args:
        root: Folder that holds train and val, or the output of ``cbam-lightning data pack``: a folder, or a
            URL such as ``s3://bucket/imagenet``. Files from a URL are cached in the folder that the
            environment variable ``LITDATA_CACHE_DIR`` names. Default: ``~/.lightning/chunks``.
        val_fraction: Fraction of the training images of each class held out for validation; 0.01 is 13 images
            of a class with 1,300. With 0, validation uses the official validation images, as testing does.
        **kwargs: Options of ``ClassFolderModule``.
    """

    in_channels = 3
    mean = class_folders.IMAGENET_MEAN
    std = class_folders.IMAGENET_STD
    dataset_name = "imagenet"

    def __init__(self, root: str = "datasets/imagenet", *, val_fraction: float = 0.01, **kwargs: Any) -> None:
        super().__init__(root, val_fraction=val_fraction, **kwargs)
        self.class_names = self.source.classes("train") or self._classes("val")
        self.num_classes = len(self.class_names)
        for part in self.part_names:
            if lacking := class_folders.lacking_classes(self.source, part, self.class_names, "train"):
                count = class_folders.count_of(lacking, self.num_classes)
                rank_zero_info(f"{self.source.where(part)} lacks {count}.")

    @property
    def part_names(self) -> tuple[str, ...]:
        """The official parts that exist."""
        return tuple(part for part in PARTS if self.source.classes(part))

    @property
    def has_test_images(self) -> bool:
        """Whether there are official validation images."""
        return "val" in self.part_names

    def list_images(self, split: LabelledSplit) -> LabelledImages:
        """List the images of a split with their labels."""
        if split == "test" or (split == "val" and not self.val_fraction):
            return self._part("val")
        images, (train, val) = self._train_part
        return images.select(train if split == "train" else val)

    @cached_property
    def _train_part(self) -> tuple[LabelledImages, list[Tensor]]:
        """The official training images, and their positions for training and validation."""
        images = self._part("train")
        return images, stratified_split(images.labels, [self.val_fraction], self.split_seed)

    def _part(self, name: str) -> LabelledImages:
        self._classes(name)
        return self.source.images(name, self.class_names)

    def _classes(self, part: str) -> tuple[str, ...]:
        """Return the classes of an official part, or explain how to create it."""
        classes = self.source.classes(part)
        if classes:
            return classes
        where = self.source.where(part)
        if not isinstance(self.source, FolderSource):
            raise UsageError(
                f"{where} is missing: packed were {', '.join(self.source.parts) or 'other parts'}. Pack it."
            )
        missing = [archive for archive in ARCHIVES if not Path(self.root, archive).is_file()]
        if Path(where).is_dir() and visible_entries(where):
            text = f"{where} holds files that are not sorted into one folder per class; delete it and "
        elif len(missing) < len(ARCHIVES):
            text = f"{self.root} holds the official archives, but no folder {part} made from them; "
        else:
            text = f"{where} holds no class folders; give the folder of train and val with --data.root, or "
        first = f"put the official {', '.join(missing)} into {self.root}, then " if missing else ""
        # torchvision names the class folders by wnid
        code = f"from torchvision.datasets import ImageNet; [ImageNet({self.root!r}, s) for s in {PARTS}]"
        raise UsageError(
            f"{text}{first}unpack the archives into train and val as needed here (this needs SciPy): "
            f"python -c {shlex.quote(code)}"
        )
