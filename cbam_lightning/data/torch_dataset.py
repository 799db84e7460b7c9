"""Any ``torch.utils.data.Dataset`` of images with one class each."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO, channel_statistics, require_crop_scale
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.split_dataset import ImageDataset, seeded
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.data.torch_items import TorchItems, TorchSplit
from cbam_lightning.data.user_transforms import UserTransform
from cbam_lightning.errors import UsageError


class TorchDataset(ImageDataModule):
    """Map-style data sets whose items are pairs (image, label).

    An image is a PIL image of any mode, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), of
    integers in [0, 255], floats in [0, 1], or bool. A label is an integer from 0. Random numbers that a data
    set draws from torch, NumPy or Python while it reads an item depend on the seed, the epoch and the image.
    An item that cannot be read ends the run, regardless of ``on_bad_image``.

    Args:
        train: Data set to train on.
        val: Data set to validate with. Default: ``val_fraction`` of ``train``. If ``train`` augments its
            images at random, give a data set that does not.
        test: Data set to test with. Default: the validation images.
        class_names: Names of the classes in the order of the labels. Default: ``train.classes``, else
            numbers.
        num_classes: Number of classes. Default: the number of names, else 1 + the largest label of ``train``.
            To find it, all of ``train`` is read, unless it lists its labels in ``targets`` or ``labels``.
        size_px: Height and width of the network's input; images are cropped as in ``ImageFolder``. Default:
            whole images, which must all have the same size.
        in_channels: 3 for RGB, 1 for greyscale.
        mean: Mean of each channel, of values in [0, 1]. Default: that of ImageNet; for one channel, the
            average over its three. With 0 and a ``std`` of 1, floats of any range are passed on unchanged.
        std: Standard deviation of each channel. Default: as for ``mean``.
        crop_scale: Smallest and largest fraction of an image's area that training crops; needs ``size_px``.
        hflip: Whether training mirrors images left to right with probability 1/2; needs ``size_px``.
        **kwargs: Options of ``ImageDataModule``.

    Raises:
        UsageError: A data set is of another kind or empty, or its first item is not an image with a label.
    """

    size_px: int | None  # type: ignore[assignment]

    def __init__(
        self,
        train: Dataset,  # type: ignore[type-arg]  # jsonargparse finds no options of Dataset[Any]
        val: Dataset | None = None,  # type: ignore[type-arg]
        test: Dataset | None = None,  # type: ignore[type-arg]
        class_names: list[str] | None = None,
        num_classes: int | None = None,
        size_px: int | None = None,
        in_channels: Literal[1, 3] = 3,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        hflip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, or_null=True, size_px=size_px)
        require_crop_scale(crop_scale)
        has_held_out = bool(self.val_fraction) or val is not None or test is not None
        require(has_held_out, "val_fraction", 0, "more than 0, as there is neither data.val nor data.test")
        self.in_channels = in_channels
        self.mean, self.std = channel_statistics(mean, std, in_channels)
        self.crop_scale = crop_scale
        self.hflip = hflip
        self.any_float = mean is not None and not any(self.mean) and set(self.std) == {1}
        datasets = {"train": train, "val": val, "test": test}
        self._items = {
            part: TorchItems(dataset, f"--data.{part}", in_channels, self.any_float)
            for part, dataset in datasets.items()
            if dataset is not None
        }
        self.class_names = self._find_class_names(class_names, num_classes)
        self.num_classes = len(self.class_names)
        self.dataset_name = type(self._items["train"].whole).__name__.lower()
        for items in self._items.values():
            items.set_num_classes(self.num_classes)
            with seeded(0, runs_user_code=True):
                items.read(0)
        self._crops = size_px is not None
        self._size = (size_px, size_px) if size_px is not None else self._common_size()
        self.size_px = self._size[0] if self._size[0] == self._size[1] else None
        self.eval_resize_px = round(self._size[0] * EVAL_RESIZE_RATIO) if self._crops else self._size[0]

    def build_split(self, split: LabelledSplit) -> ImageDataset:
        """Build the data set of a split."""
        part, positions = self._share(split)
        items = self._items[part]
        if not len(positions):
            raise UsageError(
                f"{items.title}: no item is left for {split}, as no class has enough to share; give "
                "--data.val its own data set."
            )
        transform = self.transform_for(split) if self._crops else self.user_transform(split)
        first = "--data.size_px is" if self._crops else f"item 0 of {self._items['train'].title} is"
        return TorchSplit(items, positions, transform, self._size, first, f"{self.dataset_name}/{part}")

    def build_predict_set(self, path: str) -> ImageDataset:
        """Build the data set of an image file, or of the image files in a folder; the classes are unknown.

        Raises:
            UsageError: There are no files, or the size of the network's input is unknown.
        """
        if self.size_px is None and self.eval_transform is None:
            height, width = self._size
            raise UsageError(
                f"predict_path needs the size of the network's input, and the images of {self.dataset_name} "
                f"are not square ({width} x {height} pixels); give it with --data.size_px."
            )
        return super().build_predict_set(path)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self._size

    def _share(self, split: LabelledSplit) -> tuple[str, Tensor]:
        """Return the data set of a split, and the positions of its items in it."""
        if split not in self._items:
            if split == "test":
                return self._share("val")
            if self.val_fraction:
                return "train", self._train_shares[1]
            split = "test"
        elif split == "train" and "val" not in self._items and self.val_fraction:
            return "train", self._train_shares[0]
        return split, torch.arange(len(self._items[split]))

    @cached_property
    def _train_shares(self) -> list[Tensor]:
        """Positions of the training data to train on, and those that are held out."""
        return stratified_split(self._items["train"].labels, [self.val_fraction], self.split_seed)

    def _find_class_names(self, names: list[str] | None, number: int | None) -> tuple[str, ...]:
        items = self._items["train"]
        names = names or getattr(items.whole, "classes", None)
        if names is None:
            count = int(items.labels.max()) + 1 if number is None else number
            require_at_least(2, num_classes=count)
            return tuple(str(label) for label in range(count))
        require(number in (None, len(names)), "num_classes", number, f"{len(names)}, as many as class names")
        require(len(names) >= 2, "class_names", list(names), "2 or more")
        return tuple(str(name) for name in names)

    def _common_size(self) -> tuple[int, int]:
        """Return height and width of the first training image, as in evaluation."""
        with seeded(0, runs_user_code=True):
            image, _ = self._items["train"].read(0)
            if self.eval_transform is not None:
                image = UserTransform(
                    "--data.eval_transform", self.eval_transform, self.in_channels, (1, 1), self.any_float
                ).apply(image)
        return image.shape[1], image.shape[2]
