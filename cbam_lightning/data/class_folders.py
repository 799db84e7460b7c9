"""Base of the data modules that read images sorted into class folders, as files or packed."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from cbam_lightning.checks import is_finite, require, require_at_least
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.image_files import FileDataset
from cbam_lightning.data.packed.packed_source import PackedSource, is_packed
from cbam_lightning.data.sources import FolderSource, LabelledImages
from cbam_lightning.data.split_dataset import ImageDataset
from cbam_lightning.errors import UsageError

# Of the ImageNet training images: the values that torchvision's and the original ResNet weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ImageSource = FolderSource | PackedSource
EVAL_RESIZE_RATIO = 256 / 224  # usual since the evaluation in https://arxiv.org/abs/1409.1556


class ClassFolderModule(ImageDataModule):
    """Base of the data modules that read class folders, or what was packed from them.

    Args:
        root: Folder of the data set, or the output of ``cbam-lightning data pack``: a folder, or a URL such
            as ``s3://bucket/imagenet``. Files from a URL are cached in the folder that the environment
            variable ``LITDATA_CACHE_DIR`` names. Default: ``~/.lightning/chunks``.
        size_px: Height and width of the network's input.
        crop_scale: Smallest and largest fraction of an image's area that training crops.
        hflip: Whether training mirrors images left to right with probability 1/2.
        **kwargs: Options of ``ImageDataModule``.

    Attributes:
        source: The images.
    """

    def __init__(
        self,
        root: str,
        *,
        size_px: int = 224,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        hflip: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, size_px=size_px)
        require_crop_scale(crop_scale)
        self.root = root
        self.size_px = size_px
        self.eval_resize_px = round(size_px * EVAL_RESIZE_RATIO)
        self.crop_scale = crop_scale
        self.hflip = hflip
        self.source: ImageSource = PackedSource(root) if is_packed(root) else FolderSource(Path(root))
        packed_px = self.source.shorter_side_px
        if packed_px is not None and packed_px < self.eval_resize_px:
            message = (
                f"the images of {root} were shrunk to a shorter side of {packed_px} px; evaluation with a "
                f"size_px of {size_px} enlarges them again. "
                f"Pack them with --shorter-side-px {self.eval_resize_px}."
            )
            warnings.warn(message, stacklevel=2)

    @property
    @abstractmethod
    def part_names(self) -> tuple[str, ...]:
        """The parts of the source that the splits are made of; see ``FolderSource``."""

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of a stage; before training also that of the test which follows.

        Raises:
            UsageError: The data are missing, or a file among them is no image.
        """
        super().setup(stage)
        if stage == "fit" and self.has_test_images:
            test_set = self.split_set("test")
            if isinstance(test_set, FileDataset) and self._bad_images.policy == "raise":
                for bad in test_set.damaged():
                    self._bad_images.add(bad)

    @property
    def has_test_images(self) -> bool:
        """Whether there are test images."""
        return True

    @abstractmethod
    def list_images(self, split: LabelledSplit) -> LabelledImages:
        """List the images of a split with their labels."""

    def build_split(self, split: LabelledSplit) -> ImageDataset:
        """Build the data set of a split."""
        dataset = self.list_images(split).dataset(self.preparation(split))
        self.check_names(dataset)
        if not len(dataset):
            raise UsageError(
                f"no image of {self.root} is left for {split}: no class has enough images to share. "
                "Add images, or give the split a folder of its own."
            )
        return dataset


def require_crop_scale(crop_scale: tuple[float, float]) -> None:
    """Check the smallest and largest fraction of an image's area to crop.

    Raises:
        UsageError: They are not in ascending order, or out of range.
    """
    smallest, largest = crop_scale
    allowed = "two ascending fractions, more than 0 and at most 1"
    require(0 < smallest <= largest <= 1, "crop_scale", crop_scale, allowed)


def channel_statistics(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, channels: Literal[1, 3]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the given mean and std, with those of ImageNet for ``None``; their average for one channel.

    Raises:
        UsageError: They do not fit the number of channels, a std is not positive, or the number of channels
            is neither 1 nor 3.
    """
    require(channels in (1, 3), "in_channels", channels, "1 or 3")
    if mean is None:
        mean = IMAGENET_MEAN if channels == 3 else (sum(IMAGENET_MEAN) / 3,)
    if std is None:
        std = IMAGENET_STD if channels == 3 else (sum(IMAGENET_STD) / 3,)
    mean, std = tuple(mean), tuple(std)
    for name, values in {"mean": mean, "std": std}.items():
        require(len(values) == channels, name, values, f"one value for each of the {channels} channels")
    require(all(map(is_finite, mean)), "mean", mean, "finite numbers")
    require(all(is_finite(value) and value > 0 for value in std), "std", std, "values more than 0")
    return mean, std


def count_of(lacking: list[str], num_classes: int) -> str:
    """Return words such as "2 of 10 classes (cat, dog)"."""
    few = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
    return f"{len(lacking)} of {num_classes} classes ({few})"


def lacking_classes(source: ImageSource, part: str, expected: tuple[str, ...], expected_in: str) -> list[str]:
    """Return the classes that a part lacks, which it may.

    Args:
        source: The images.
        part: The part.
        expected: Names of all classes.
        expected_in: The part that has them.

    Raises:
        UsageError: The part has classes of its own.
    """
    classes = source.classes(part)
    if extra := sorted(set(classes) - set(expected)):
        raise UsageError(
            f"{source.where(part)} has class folders that {source.where(expected_in)} has not: "
            f"{', '.join(extra)}. There is nothing to train them with: rename or remove them. To "
            "predict images without classes, give --data.predict_path to `cbam-lightning predict`."
        )
    return [name for name in expected if name not in classes]
