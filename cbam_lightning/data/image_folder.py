"""Images sorted into one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from cbam_lightning.checks import require, require_at_least
from cbam_lightning.data import class_folders
from cbam_lightning.data.data_module import LabelledSplit
from cbam_lightning.data.folder_layout import part_of
from cbam_lightning.data.sources import FolderSource, LabelledImages
from cbam_lightning.data.splits import choose_per_class, hold_out, ordered_by_name
from cbam_lightning.errors import UsageError


class ImageFolder(class_folders.ClassFolderModule):
    """Images in one folder per class, in ``root`` itself or in a folder for each part.

    ================  ==================  =================  =================
    folders           training            validation         test
    ================  ==================  =================  =================
    class folders     the rest            val_fraction       test_fraction
    train             the rest of train   val_fraction       test_fraction
    train val         train               val                val
    train test        the rest of train   val_fraction       test
    train val test    train               val                test
    ================  ==================  =================  =================

    Instead of train a folder may be called training, instead of val valid or validation, and instead of test
    testing, in any case, also with "set" at the end, as in training_set. A fraction is of the images of each
    class; each class keeps at least one image to train on. What is held out depends on ``split_seed`` and the
    names of the files: where files are added, the others stay where they are, but for those at the border.
    With a ``val_fraction`` of 0, validation uses the test images. A class may be missing in val and test.
    Folders that all have the same folders in them are taken for classes only below train. Which folder is
    what is told if it has another name, or if a folder is not used. Folders that may be parts or classes are
    refused.

    Args:
        root: Folder of the images, or the output of ``cbam-lightning data pack``: a folder, or a URL such as
            ``s3://bucket/pets``. Files from a URL are cached in the folder that the environment variable
            ``LITDATA_CACHE_DIR`` names. Default: ``~/.lightning/chunks``.
        in_channels: 3 to read images as RGB, 1 as greyscale.
        mean: Mean of each channel, of values in [0, 1]. Default: that of ImageNet; for one channel, the
            average over its three.
        std: Standard deviation of each channel. Default: as for ``mean``.
        test_fraction: Fraction of the images of each class held out for testing if there is no test folder.
        images_per_class: Images of each class to train on, chosen by ``split_seed`` from those that are not
            held out. The held-out images do not depend on it. Default: all.
        **kwargs: Options of ``ClassFolderModule``.
    """

    def __init__(
        self,
        root: str,
        *,
        in_channels: Literal[1, 3] = 3,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        test_fraction: float = 0.1,
        images_per_class: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        largest = 1 - self.val_fraction
        allowed = f"more than 0, and less than 1 - val_fraction = {largest:g}"
        require(0 < test_fraction < largest, "test_fraction", test_fraction, allowed)
        self.test_fraction = test_fraction
        require_at_least(1, or_null=True, images_per_class=images_per_class)
        self.images_per_class = images_per_class
        self.in_channels = in_channels
        self.mean, self.std = class_folders.channel_statistics(mean, std, in_channels)
        self.dataset_name = f"image_folder:{self.source.name}"
        if isinstance(self.source, FolderSource):
            self.source.require_clear()
        self._train = "train" if "train" in self.source.parts else ""
        self._held_out = self._find_held_out()
        self.holds_out_by_name = set(self._held_out) != {"val", "test"}
        self.class_names = _class_names(self.source, self._train)
        self.num_classes = len(self.class_names)
        known = self.class_names, self._train
        parts = dict.fromkeys(self._held_out.values())
        lacking = {part: class_folders.lacking_classes(self.source, part, *known) for part in parts}
        if isinstance(self.source, FolderSource):
            _tell(self.source, lacking, self.num_classes)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The part to train on, and those of the other splits that have one."""
        return tuple(dict.fromkeys([self._train, *self._held_out.values()]))

    def list_images(self, split: LabelledSplit) -> LabelledImages:
        """List the images of a split with their labels."""
        if split in self._held_out:
            return self.source.images(self._held_out[split], self.class_names)
        images, shares = self._train_part
        return images.select(shares["test" if split == "val" and not self.val_fraction else split])

    @cached_property
    def _train_part(self) -> tuple[LabelledImages, dict[str, Tensor]]:
        """The images of the training part, and the positions of each split in them."""
        images = self.source.images(self._train, self.class_names)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        held_out = [0.0 if split in self._held_out else share for split, share in fractions.items()]
        by_class = ordered_by_name(images.labels.tolist(), images.names(), self.split_seed)
        shares = hold_out(by_class, held_out)
        if self.images_per_class is not None:
            labels = images.labels[shares[0]]
            fewest, label = labels.bincount(minlength=self.num_classes).min(0)
            allowed = f"at most {fewest}, since {self.class_names[label]} has no more images to train on"
            require(self.images_per_class <= int(fewest), "images_per_class", self.images_per_class, allowed)
            shares[0] = shares[0][choose_per_class(labels, self.images_per_class, self.split_seed)]
        return images, dict(zip(("train", *fractions), shares, strict=True))

    def _find_held_out(self) -> dict[str, str]:
        """Return the parts that hold the validation and the test images, where they exist."""
        if not self._train:
            return {}
        parts: dict[str, str] = {part: part for part in self.source.parts if part != "train"}
        if "val" in parts:
            parts.setdefault("test", "val")
        elif "test" in parts and not self.val_fraction:
            parts["val"] = "test"
        return parts


def _class_names(source: class_folders.ImageSource, part: str) -> tuple[str, ...]:
    names = source.classes(part)
    if len(names) < 2 or all(part_of(name) for name in names):
        raise UsageError(
            f"{source.where(part)} has {len(names)} class folders ({', '.join(names) or 'none'}); needed are "
            "two or more, each with the name and the images of one class, in --data.root or in its folder "
            "train."
        )
    return names


def _tell(source: FolderSource, lacking: Mapping[str, list[str]], num_classes: int) -> None:
    """Say in a line which folder is what, unless all have the names of their parts and are used."""
    names = {part: Path(source.where(part)).name for part in source.parts}
    told = [f"{part} = {name}" for part, name in names.items()] if list(names) != list(names.values()) else []
    for part, missing in lacking.items():
        if missing:
            told.append(f"{names[part]} lacks {class_folders.count_of(missing, num_classes)}")
    for part, count in source.without_classes().items() if source.parts else []:
        folder = source.where(part)
        told.append(
            f"{Path(folder).name} has no class folders and is not used: to predict its images, give "
            f"--data.predict_path {folder} to `cbam-lightning predict`"
            if count
            else f"{Path(folder).name} is empty and is not used"
        )
    for part in source.parts or [""]:
        if count := source.loose(part):
            told.append(f"not used: {count} images in {source.where(part)} that are in no class folder")
    if source.parts and source.unused():
        told.append(f"not used: {', '.join(source.unused())}")
    if told:
        rank_zero_info(f"{source.root}: {'; '.join(told)}.")
