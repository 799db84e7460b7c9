"""What the data modules with small images in memory share."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from cbam_lightning.checks import require
from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.batch import ImageDataset
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.splits import stratified_split


class ArrayDataModule(ImageDataModule):
    """Base of the data modules that hold an official training and an official test part in memory.

    Args:
        crop_padding_px: Zero pixels added on each side before the random crop in training; 0 crops nothing.
        hflip: Whether training mirrors images left to right with probability 1/2.
        **kwargs: Options of ``ImageDataModule``.
    """

    def __init__(self, *, crop_padding_px: int, hflip: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require(crop_padding_px >= 0, "crop_padding_px", crop_padding_px, "0 or more")
        self.crop_padding_px = crop_padding_px
        self.hflip = hflip
        self.eval_resize_px = self.size_px  # evaluation uses whole images

    @abstractmethod
    def load_part(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the official training or test part.

        Returns:
            uint8 images (M, C, size_px, size_px) and int64 labels (M,).
        """

    def build_split(self, split: Literal["train", "val", "test"]) -> ImageDataset:
        """Make the data set of a split; validation images come from the official training part."""
        images, own = self._arrays(split), self.user_transform(split)
        return images if own is None else images.changed_by(own)

    def _arrays(self, split: Literal["train", "val", "test"]) -> ArrayDataset:
        if split == "val" and not self.val_fraction:
            return self._arrays("test")
        if split == "test":
            images, labels = self.load_part(train=False)
            return ArrayDataset(images, labels, part=f"{self.dataset_name}/test")
        images, labels, (train, val) = self._train_part
        positions = train if split == "train" else val
        return ArrayDataset(
            images,
            labels,
            pad_px=self.crop_padding_px if split == "train" else 0,
            hflip=self.hflip and split == "train",
            part=f"{self.dataset_name}/train",
            positions=positions,
        )

    @cached_property
    def _train_part(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Images and labels of the official training part, and which of them train and validate."""
        images, labels = self.load_part(train=True)
        return images, labels, stratified_split(labels, [self.val_fraction], self.split_seed)
