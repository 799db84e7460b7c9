"""Base class of the data modules for classification: normalising a batch on its device, mixup and cutmix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data.batch import Batch
from cbam_lightning.data.cropping import EvalTransform, TrainTransform, Transform
from cbam_lightning.data.data_module import BaseDataModule, Split
from cbam_lightning.data.image_files import FileDataset, find_image_files
from cbam_lightning.data.loader import TrainOrder
from cbam_lightning.data.normalisation import normalise
from cbam_lightning.data.sampled_order import BalancedSampler, SampledOrder
from cbam_lightning.data.split_dataset import ImageDataset, Preparation, SplitDataset
from cbam_lightning.data.user_transforms import TransformOption, UserTransform, as_steps
from cbam_lightning.seeding import Stream, derive_seed, seed_all


class ImageDataModule(BaseDataModule):
    """Base of the data modules for classification; ``val_fraction`` applies to each class.

    Args:
        train_transform: A transform of ``torchvision.transforms.v2``, any other class with ``__call__``, or a
            list of them. It replaces the random crop and flip of this module, whose options then have no
            effect. It gets the decoded image, a uint8 tensor (C, H, W), and returns such a tensor or floats
            in [0, 1]; normalisation follows. A result of another size than the network's input is resized and
            centre-cropped. Random numbers from torch, NumPy and Python depend on the seed, the epoch and the
            image.
        eval_transform: The same for validation, test and prediction, in place of resizing and cropping.
        balanced: Whether to draw the images of an epoch with replacement, first a class and then an image of
            it, so that all classes are seen equally often. The length of an epoch does not change.
        sampler: Class of a ``torch.utils.data.Sampler`` that chooses the images of an epoch and their order.
            It is built for every epoch from the training data, which have ``labels``. The global random
            number generators are seeded, and ``set_epoch`` is called if it exists.
        mixup_alpha: Parameter of mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 disables
            mixup.
        cutmix_alpha: Parameter of cutmix's Beta distribution (https://arxiv.org/abs/1905.04899); 0 disables
            cutmix. With both, each batch gets one of them at random.
        **kwargs: Options of ``BaseDataModule``.

    Attributes:
        size_px: Height and width of the network's input.
        eval_resize_px: Length to which evaluation resizes the shorter side before the centre crop.
        crop_scale: Smallest and largest fraction of an image's area that training crops, where it does.
        hflip: Whether training mirrors images left to right with probability 1/2.
        any_float: Whether user-supplied floats may have any value, because they are already normalised.
    """

    size_px: int
    eval_resize_px: int
    crop_scale: tuple[float, float]
    hflip: bool
    any_float: bool = False

    def __init__(
        self,
        *,
        train_transform: TransformOption = None,
        eval_transform: TransformOption = None,
        balanced: bool = False,
        sampler: Callable[[Dataset[Any]], Sampler[int]] | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train_transform = as_steps("train_transform", train_transform)
        self.eval_transform = as_steps("eval_transform", eval_transform)
        require(not (balanced and sampler), "balanced", balanced, "false, as the sampler chooses the images")
        self.sampler = BalancedSampler if balanced else sampler
        require_at_least(0, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha

    def build_predict_set(self, path: str) -> ImageDataset:
        """Build the data set of an image file, or of the image files in a folder; the classes are unknown."""
        paths = find_image_files(path)
        labels = torch.full((len(paths),), -1)
        dataset = FileDataset(paths, labels, self.preparation("predict"))
        self.check_names(dataset)
        return dataset

    def check_names(self, dataset: ImageDataset) -> None:
        """Refuse files that are no images by their names, before any is read.

        Raises:
            UsageError: There is one, and ``on_bad_image`` is "raise".
        """
        if isinstance(dataset, FileDataset) and self._bad_images.policy == "raise":
            for bad in dataset.no_images():
                self._bad_images.add(bad)

    def preparation(self, split: Split) -> Preparation:
        """Return how the images of a split are prepared."""
        return Preparation(self.transform_for(split), self.in_channels, self.image_size[0])

    def transform_for(self, split: Split) -> Transform:
        """Return the user-defined transform for a split, or else the usual crop of this module."""
        user_transform = self.user_transform(split)
        if user_transform is not None:
            return user_transform
        if split == "train":
            return TrainTransform(self.image_size[0], self.crop_scale, self.hflip)
        return EvalTransform(self.image_size[0], self.eval_resize_px)

    def user_transform(self, split: Split) -> UserTransform | None:
        """Return the user-defined transform for a split, if there is one."""
        option = "train_transform" if split == "train" else "eval_transform"
        steps = getattr(self, option)
        if steps is None:
            return None
        return UserTransform(f"--data.{option}", steps, self.in_channels, self.image_size, self.any_float)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.size_px, self.size_px

    def train_order(self, dataset: SplitDataset) -> TrainOrder:
        """Return the training order: that of the sampler, or else every image once."""
        if self.sampler is None:
            return super().train_order(dataset)
        return SampledOrder(dataset, self.device_batch_size, self.seed, *self._devices, sampler=self.sampler)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise a batch on its device and, in training, apply mixup or cutmix.

        Returns:
            ``(images / 255 - mean) / std`` in float32, or in the dtype of a reduced-precision trainer; see
            ``Batch`` for the labels.
        """
        batch = batch._replace(images=normalise(batch.images, self.mean, self.std))
        if self.trainer is None:
            return batch
        if self.trainer.training and self._mix is not None and len(batch.images):
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            place = (self.seed, self.trainer.current_epoch, done, self.trainer.global_rank)
            seed_all(derive_seed(Stream.MIXING, *place))
            images, labels = self._mix(batch.images, batch.labels)
            batch = Batch(images, labels, batch.indices)
        # Lightning converts to the dtype of, say, "bf16-true" before this hook, while the images are uint8.
        return cast(Batch, self.trainer.precision_plugin.convert_input(batch))

    @cached_property
    def _mix(self) -> v2.Transform | None:
        return create_mixing(self.mixup_alpha, self.cutmix_alpha, self.num_classes)


def create_mixing(mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> v2.Transform | None:
    """Create the transform that mixes each image and its label with those of its neighbour in the batch.

    Args:
        mixup_alpha: As in ``ImageDataModule``.
        cutmix_alpha: As in ``ImageDataModule``.
        num_classes: Number of classes.

    Returns:
        From float images (N, C, H, W) and int64 labels (N,) to images (N, C, H, W) and float labels
        (N, num_classes) whose rows sum to 1; or ``None`` if both are disabled.
    """
    alphas = {v2.MixUp: mixup_alpha, v2.CutMix: cutmix_alpha}
    choices = [mix(alpha=alpha, num_classes=num_classes) for mix, alpha in alphas.items() if alpha]
    return v2.RandomChoice(choices) if choices else None
