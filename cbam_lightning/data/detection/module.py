"""Base class of the data modules for detection: the images of a split, and the batch on its device."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.class_folders import channel_statistics
from cbam_lightning.data.data_module import BaseDataModule, LabelledSplit
from cbam_lightning.data.detection.annotations import Annotations, without_objects
from cbam_lightning.data.detection.augmentation import Augmentation, Augmented, DetectionTransform
from cbam_lightning.data.detection.dataset import DetectionDataset, DetectionFiles
from cbam_lightning.data.detection.detection_batch import DetectionBatch
from cbam_lightning.data.image_files import find_image_files
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.errors import UsageError


class DetectionDataModule(BaseDataModule):
    """Base of the data modules for detection.

    Training leaves out difficult objects and crowds; evaluation keeps and marks them.

    Args:
        size_px: Height and width to which all images are resized, regardless of their aspect ratio; null
            keeps the sizes, for a detector that resizes images itself.
        in_channels: 3 to read images as RGB, 1 as greyscale.
        augmentation: Random augmentation in training: "ssd" for colour distortion, zooming out, cropping and
            mirroring, "flip" for mirroring only, "none" for nothing.
        keep_negatives: Whether to train on images without any object to learn.
        batch_size: Images per batch on each device.
        **kwargs: Options of ``BaseDataModule``.

    Attributes:
        num_classes: Number of classes K, without the background; labels are 1..K.
        class_names: Names of the classes; that of label l is ``class_names[l - 1]``.
        category_ids: Id of each class in the data set's own files, in the same order.
    """

    category_ids: tuple[int, ...]

    def __init__(
        self,
        *,
        size_px: int | None = None,
        in_channels: Literal[1, 3] = 3,
        augmentation: Augmentation = "flip",
        keep_negatives: bool = False,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **kwargs)
        require_at_least(1, or_null=True, size_px=size_px)
        require(augmentation in ("ssd", "flip", "none"), "augmentation", augmentation, "ssd, flip or none")
        resizes = size_px is not None or augmentation != "ssd"
        require(resizes, "size_px", size_px, "1 or more with the augmentation ssd, which crops and zooms")
        self.size_px = size_px
        self.in_channels = in_channels
        self.augmentation = augmentation
        self.keep_negatives = keep_negatives
        self.mean, self.std = channel_statistics(None, None, in_channels)

    @abstractmethod
    def load_part(self, train: bool) -> Annotations:
        """Read the annotations of the official training or test part.

        Raises:
            UsageError: They are missing or damaged.
        """

    def open_images(self, annotations: Annotations, transform: DetectionTransform) -> DetectionDataset:
        """Build the data set that reads some images of a part."""
        return DetectionFiles(annotations, transform, self.in_channels)

    def build_split(self, split: LabelledSplit) -> DetectionDataset:
        """Build the data set of a split; validation images come from the official training part."""
        if split == "test" or not (split == "train" or self.val_fraction):
            return self.open_images(self._test_part, self._transform("none"))
        part, (train, val) = self._train_part
        is_train = split == "train"
        chosen = part.select(train).to_learn(self.keep_negatives) if is_train else part.select(val)
        if not len(chosen):
            raise UsageError(
                f"{self.dataset_name} has no image left for {split}: add images with objects, change "
                "--data.val_fraction, or set --data.keep_negatives true."
            )
        return self.open_images(chosen, self._transform(self.augmentation if is_train else "none"))

    def build_predict_set(self, path: str) -> DetectionDataset:
        """Build the data set of an image file, or of the image files in a folder; the objects are unknown."""
        annotations = without_objects(find_image_files(path))
        return DetectionFiles(annotations, self._transform("none"), self.in_channels)

    def _transform(self, augmentation: Augmentation) -> DetectionTransform:
        return Augmented(augmentation, self.size_px, self.mean)

    @cached_property
    def _test_part(self) -> Annotations:
        return self.load_part(train=False)

    @cached_property
    def _train_part(self) -> tuple[Annotations, list[Tensor]]:
        """The official training part, and the positions of its images for training and validation."""
        part = self.load_part(train=True)
        one_class = torch.zeros(len(part), dtype=torch.int64)
        return part, stratified_split(one_class, [self.val_fraction], self.split_seed)

    def on_after_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
        """Convert the images of a batch to floating point on its device; detectors normalise them.

        Returns:
            Images in [0, 1], in float32 or the dtype of the trainer's precision; boxes in the same dtype, but
            at least float32.
        """
        images = [F.to_dtype(image.contiguous(), torch.float32, scale=True) for image in batch.images]
        if self.trainer is None or not images:
            return batch._replace(images=images)
        images = self.trainer.precision_plugin.convert_input(images)
        # bfloat16 has 8 significant bits: above 256 it represents only every second pixel
        dtype = torch.promote_types(torch.float32, images[0].dtype)
        targets = [target | {"boxes": target["boxes"].to(dtype)} for target in batch.targets]
        return batch._replace(images=images, targets=targets)
