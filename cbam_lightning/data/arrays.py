"""Small images that fit in memory: whole batches are cropped and flipped at once, in uint8."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cbam_lightning.checks import require_at_least
from cbam_lightning.data.batch import Batch
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.image_digests import digest_of_arrays
from cbam_lightning.data.split_dataset import (
    ImageDataset,
    Preparation,
    SampleRequest,
    TransformedDataset,
    as_index,
    position_of,
)
from cbam_lightning.data.splits import stratified_split
from cbam_lightning.data.user_transforms import UserTransform


class ArrayDataModule(ImageDataModule):
    """Base of the data modules that hold an official training and an official test part in memory.

    Args:
        crop_padding_px: Zero pixels added on each side before the random crop in training; 0 disables it.
        hflip: Whether training mirrors images left to right with probability 1/2.
        **kwargs: Options of ``ImageDataModule``.
    """

    def __init__(self, *, crop_padding_px: int = 4, hflip: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_at_least(0, crop_padding_px=crop_padding_px)
        self.crop_padding_px = crop_padding_px
        self.hflip = hflip
        self.eval_resize_px = self.size_px  # evaluation uses whole images

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


class ArrayDataset(ImageDataset):
    """Images held as one uint8 tensor, optionally cropped and flipped at random.

    Args:
        images: uint8 (M, C, H, W) in [0, 255].
        labels: int64 (M,).
        pad_px: Zero pixels added on each side before a random crop back to H x W; 0 disables it.
        hflip: Whether each image is mirrored left to right with probability 1/2.
        part: Name of ``images``, for example ``"cifar10/test"``; the first part of the images' names.
        positions: int64, the images that belong to this data set. Default: all.
    """

    default_num_workers = 0  # reading a batch takes less time than sending it between processes

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        pad_px: int = 0,
        hflip: bool = False,
        *,
        part: str = "images",
        positions: Tensor | None = None,
    ) -> None:
        self.images = images
        self.positions = torch.arange(len(images)) if positions is None else positions
        self.labels = labels[self.positions]
        self.pad_px = pad_px
        self.hflip = hflip
        self.part = part

    def __getitems__(self, requests: Sequence[int | SampleRequest]) -> Batch:
        """Read, crop and flip a batch."""
        index = as_index([position_of(request) for request in requests])
        images = self.images[self.positions[index]]
        if self.pad_px or self.hflip:
            seeds = _seeds(requests)
            images = random_crop(images, self.pad_px, seeds) if self.pad_px else images
            images = random_hflip(images, seeds) if self.hflip else images
        return Batch(images, self.labels[index], index)

    def name(self, index: int) -> str:
        """Return the part and the image's position in it, for example ``"fashion_mnist/test/00012"``."""
        return f"{self.part}/{int(self.positions[index]):05d}"

    def digest(self) -> str:
        """Return a digest of the positions and labels, and of some of the images."""
        return digest_of_arrays(self.part, self.positions, self.labels, images=self.images)


class TransformedArrays(TransformedDataset):
    """Images in memory, changed one at a time by a user-defined transform and by nothing else.

    Args:
        source: The images.
        transform: From uint8 (C, H, W) to (C, H, W).
    """

    def __init__(self, source: ArrayDataset, transform: UserTransform) -> None:
        super().__init__(source.labels, Preparation(transform, transform.channels, transform.size[0]))
        self.source = source

    def read(self, index: int) -> Tensor:
        """Return the image as it is in memory: uint8 (C, H, W)."""
        return self.source.images[self.source.positions[index]]

    def name(self, index: int) -> str:
        """Return the part and the image's position in it."""
        return self.source.name(index)

    def digest(self) -> str:
        """Return the digest of the images in memory."""
        return self.source.digest()


def _seeds(requests: Sequence[int | SampleRequest]) -> Tensor:
    """Return 63 random bits for each image, int64 (N,)."""
    fresh = torch.randint(2**63 - 1, (len(requests),)).tolist()
    pairs = zip(requests, fresh, strict=True)
    return as_index([item.seed >> 1 if isinstance(item, SampleRequest) else seed for item, seed in pairs])


def random_crop(images: Tensor, pad_px: int, seeds: Tensor) -> Tensor:
    """Pad each image with zeros and crop a random window of the original size.

    Args:
        images: (N, C, H, W) of any dtype.
        pad_px: Zero pixels added on each side.
        seeds: int64 (N,) in [0, 2^63); bits 1 to 62 choose the window.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (pad_px, pad_px, pad_px, pad_px))
    # A view: (N, C, 2 pad + 1, 2 pad + 1, H, W). The indexing below copies one window per image.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = ((seeds >> shift) % 2**31 % (2 * pad_px + 1) for shift in (1, 32))
    return windows[torch.arange(count), :, top, left]


def random_hflip(images: Tensor, seeds: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        images: (N, C, H, W) of any dtype.
        seeds: int64 (N,); bit 0 decides.

    Returns:
        (N, C, H, W) of the same dtype.
    """
    flip = seeds % 2 == 1
    return torch.where(flip[:, None, None, None], images.flip(-1), images)
