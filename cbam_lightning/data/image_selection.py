"""Choosing images to show or explain: some of a split or a folder, as in evaluation, with their names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from cbam_lightning.checks import check_positive
from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO
from cbam_lightning.data.cropping import EvalTransform, Transform
from cbam_lightning.data.detection.annotations import without_objects
from cbam_lightning.data.detection.augmentation import Augmented
from cbam_lightning.data.detection.dataset import DetectionFiles
from cbam_lightning.data.detection.detection_batch import DetectionBatch
from cbam_lightning.data.folder_layout import nfc
from cbam_lightning.data.image_decoding import SUFFIXES
from cbam_lightning.data.image_files import FileDataset, find_image_files
from cbam_lightning.data.split_dataset import Preparation, SplitDataset

# Networks for images of at most this side are evaluated on whole images, as in the data modules of such
# images.
WHOLE_UP_TO_PX = 64


class NamedImage(NamedTuple):
    """An image of a classification data set.

    Attributes:
        name: Name by which a person finds it.
        image: uint8 (C, H, W).
        label: Its class, or -1 where it is unknown.
    """

    name: str
    image: Tensor
    label: int


class NamedScene(NamedTuple):
    """An image of a detection data set.

    Attributes:
        name: Name by which a person finds it.
        image: uint8 (C, H, W).
        objects: The fields of ``Objects`` by name.
    """

    name: str
    image: Tensor
    objects: dict[str, Tensor]


@dataclass(frozen=True)
class ImageSelection:
    """Some images of a data set.

    Attributes:
        dataset: Without augmentation.
        positions: Positions in the data set.
    """

    dataset: SplitDataset
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int, problems: BadImageLog | None = None) -> Iterator[list[Any]]:
        """Read up to ``size`` images at a time, each as ``NamedImage`` or, for detection, ``NamedScene``.

        Args:
            size: Number of images.
            problems: Takes the files that are no images, which are left out. Default: they are errors.

        Raises:
            UsageError: A file is not an image.
            OSError: A file cannot be read.
        """
        problems = problems or BadImageLog("raise")
        for start in range(0, len(self), size):
            batch = problems.readable(self.dataset.__getitems__(self.positions[start : start + size]))
            kind: Any = NamedScene if isinstance(batch, DetectionBatch) else NamedImage
            targets = batch.targets if isinstance(batch, DetectionBatch) else batch.labels.tolist()
            rows = zip(batch.indices.tolist(), batch.images, targets, strict=True)
            yield [kind(self.dataset.name(index), image, target) for index, image, target in rows]


def spread(dataset: SplitDataset, limit: int | None = None) -> ImageSelection:
    """Choose images at equal distances in a data set, so that every class folder is represented.

    Args:
        dataset: The images.
        limit: Largest number of images. Default: all.

    Raises:
        UsageError: The limit is below 1.
    """
    if limit is not None:
        check_positive("limit", limit)
    length = len(dataset)
    count = length if limit is None else min(limit, length)
    return ImageSelection(dataset, [i * length // count for i in range(count)])


def open_image_files(
    path: str | Path, size_px: int, channels: int, class_names: Sequence[str] = ()
) -> FileDataset:
    """Build the data set of an image file, or of those in a folder, cropped as in evaluation.

    Args:
        path: File, or folder, which is searched with its subfolders.
        size_px: Height and width of the result. The shorter side is resized to 256/224 of it before the
            centre crop; for sizes up to 64, to the size itself.
        channels: 1 or 3.
        class_names: If the folder holds subfolders of these names, and images in no other, these are the
            classes of the images.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    paths = find_image_files(path, "--images")
    labels = torch.tensor(_labels(Path(path), paths, class_names), dtype=torch.int64)
    preparation = Preparation(evaluation_transform(size_px), cast(Literal[1, 3], channels), size_px)
    return FileDataset(paths, labels, preparation)


def open_scene_files(path: str | Path, channels: int) -> DetectionFiles:
    """Build the data set of an image file, or of those in a folder, in their own sizes.

    Args:
        path: File, or folder, which is searched with its subfolders.
        channels: 1 or 3.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    annotations = without_objects(find_image_files(path, "--images"))
    unchanged = Augmented("none", None, [0.0] * channels)
    return DetectionFiles(annotations, unchanged, cast(Literal[1, 3], channels))


def evaluation_transform(size_px: int) -> Transform:
    """Return the transform of evaluation for networks of this input size."""
    resize_px = size_px if size_px <= WHOLE_UP_TO_PX else round(size_px * EVAL_RESIZE_RATIO)
    return EvalTransform(size_px, resize_px)


def _labels(root: Path, paths: Sequence[str], class_names: Sequence[str]) -> list[int]:
    label_of = {nfc(name): label for label, name in enumerate(class_names)}
    if not root.is_dir():
        return [-1] * len(paths)
    tops = [nfc(Path(path).relative_to(root).parts[0]) for path in paths]
    # a note or a list beside the class folders says nothing of the images
    found = {top for top, path in zip(tops, paths, strict=True) if path.lower().endswith(SUFFIXES)}
    others = sorted(found - label_of.keys())
    if not others:
        return [label_of.get(top, -1) for top in tops]
    if len(others) < len(found):
        message = f"{root} has folders of classes, but also {', '.join(others[:3])}: no image has a class."
        warnings.warn(message, stacklevel=3)
    return [-1] * len(paths)
