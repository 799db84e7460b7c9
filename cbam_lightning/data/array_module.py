"""Base class of the data modules of small images that fit in memory."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.arrays import ArrayDataset, TransformedArrays
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import LabelledSplit, Loader
from cbam_lightning.data.device_arrays import DeviceArrays
from cbam_lightning.data.loader import BatchOrder
from cbam_lightning.data.split_dataset import ImageDataset, SplitDataset
from cbam_lightning.data.splits import stratified_split


class ArrayDataModule(ImageDataModule):
    """Base of the data modules that hold an official training and an official test part in memory.

    Args:
        crop_padding_px: Zero pixels added on each side before the random crop in training; 0 disables it.
        hflip: Whether training mirrors images left to right with probability 1/2.
        on_device: Whether the trainer's device keeps the images, and makes the batches. They are the same,
            bit for bit, and cost the CPU next to nothing; the device needs memory for the images, those for
            training with their padding. Images at ``predict_path`` are read as usual.
        **kwargs: Options of ``ImageDataModule``.

    Raises:
        UsageError: With ``on_device`` there are ``num_workers``, or a transform of the user's.
    """

    def __init__(
        self, *, crop_padding_px: int = 4, hflip: bool = True, on_device: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(0, crop_padding_px=crop_padding_px)
        self.crop_padding_px = crop_padding_px
        self.hflip = hflip
        self.on_device = on_device
        self._held: dict[ArrayDataset, DeviceArrays] = {}
        if on_device:
            self._require_on_device()
        self.eval_resize_px = self.size_px  # evaluation uses whole images

    def _require_on_device(self) -> None:
        """Refuse what only worker processes and the CPU can do."""
        allowed = "0 or null with on_device, as the device makes the batches"
        require(not self.num_workers, "num_workers", self.num_workers, allowed)
        for option in ("train_transform", "eval_transform"):
            allowed = "null with on_device, as it changes images one at a time on the CPU"
            require(getattr(self, option) is None, option, "given", allowed)

    @abstractmethod
    def load_part(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the official training or test part.

        Returns:
            uint8 images (M, C, size_px, size_px) and int64 labels (M,).
        """

    def build_split(self, split: LabelledSplit) -> ImageDataset:
        """Build the data set of a split; validation images come from the official training part."""
        images, transform = self._arrays(split), self.user_transform(split)
        return images if transform is None else TransformedArrays(images, transform)

    def _arrays(self, split: LabelledSplit) -> ArrayDataset:
        if split == "test" or (split == "val" and not self.val_fraction):
            images, labels = self.load_part(train=False)
            return ArrayDataset(images, labels, part=f"{self.dataset_name}/test")
        images, labels, (train, val) = self._train_part
        is_train = split == "train"
        return ArrayDataset(
            images,
            labels,
            pad_px=self.crop_padding_px if is_train else 0,
            hflip=self.hflip and is_train,
            part=f"{self.dataset_name}/train",
            positions=train if is_train else val,
        )

    @cached_property
    def _train_part(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Images and labels of the official training part, and its positions for training and validation."""
        images, labels = self.load_part(train=True)
        return images, labels, stratified_split(labels, [self.val_fraction], self.split_seed)

    def _loader(self, dataset: SplitDataset, order: BatchOrder | None) -> Loader:
        if self.on_device and isinstance(dataset, ArrayDataset):
            dataset = self._on_device(dataset)
        return super()._loader(dataset, order)

    def _on_device(self, dataset: ArrayDataset) -> DeviceArrays:
        """Return the images on the trainer's device, to which they are copied once."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        held = self._held.get(dataset)
        if held is None or held.device != device:
            held = self._held[dataset] = DeviceArrays(dataset, device)
        return held
