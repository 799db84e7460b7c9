"""The annotations of all images of a part, stored in few tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cbam_lightning.data.detection.box_checks import check_boxes
from cbam_lightning.data.detection.detection_batch import Objects
from cbam_lightning.data.image_files import as_bytes
from cbam_lightning.data.split_dataset import as_index

# An object as Python values, in the order of the fields of ``Objects``, and their types as tensors.
ObjectRow = tuple[tuple[float, float, float, float], int, bool, bool, float]
_DTYPES = (torch.float64, torch.int64, torch.bool, torch.bool, torch.float32)


@dataclass(frozen=True)
class Annotations:
    """Names of images with their objects.

    Tensors instead of one list per image, because reading a Python object changes its reference count, which
    copies its memory page into every worker process.

    Attributes:
        names: (M,), the files, or names such as "fashion_scenes/test/00012" for images in memory.
        image_ids: int64 (M,).
        sizes: int64 (M, 2), height and width of each image; 0 where unknown.
        objects: T objects of all images, one image after the other.
        image_of_object: int64 (T,), position of each object's image, in ascending order.
    """

    names: NDArray[np.bytes_]
    image_ids: Tensor
    sizes: Tensor
    objects: Objects
    image_of_object: Tensor

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return os.fsdecode(bytes(self.names[index]))

    def of_image(self, index: int) -> Objects:
        """Return the objects of an image."""
        start, end = torch.searchsorted(self.image_of_object, torch.tensor([index, index + 1])).tolist()
        return self.objects.select(slice(start, end))

    def select(self, images: Tensor) -> Annotations:
        """Return some images, int64 (K,) in ascending order, with their objects."""
        new_position = torch.full((len(self),), -1)
        new_position[images] = torch.arange(len(images))
        image_of_object = new_position[self.image_of_object]
        kept = image_of_object >= 0
        names, ids, sizes = self.names[images.numpy()], self.image_ids[images], self.sizes[images]
        return Annotations(names, ids, sizes, self.objects.select(kept), image_of_object[kept])

    def to_learn(self, keep_negatives: bool) -> Annotations:
        """Return the annotations for training, without difficult objects and crowds.

        Args:
            keep_negatives: Whether to keep images without any object left.
        """
        learnt = ~(self.objects.difficult | self.objects.crowd)
        images = self.image_of_object[learnt]
        left = replace(self, objects=self.objects.select(learnt), image_of_object=images)
        return left if keep_negatives else left.select(images.bincount().nonzero().flatten())


def annotate(
    names: Sequence[str],
    image_ids: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    rows: Sequence[ObjectRow],
    image_of_object: Sequence[int],
    describe: Callable[[int], str] = str,
) -> Annotations:
    """Build annotations by checking boxes and sorting objects by their images.

    Args:
        names: Names of the M images.
        image_ids: Ids of the M images.
        sizes: Height and width of the M images; 0 where unknown.
        rows: T objects; those of one image keep their order.
        image_of_object: Position of each object's image.
        describe: Returns the file and place of the object at a position, for messages.

    Raises:
        UsageError: A box has no meaning; see ``check_boxes``.
    """
    size_of, image_of = as_index(sizes).reshape(-1, 2), as_index(image_of_object)
    objects, kept = check_boxes(as_objects(rows), size_of[image_of], describe)
    images, order = image_of[kept].sort(stable=True)
    return Annotations(as_bytes(names), as_index(image_ids), size_of, objects.select(order), images)


def without_objects(names: Sequence[str]) -> Annotations:
    """Build annotations of images whose objects are unknown."""
    return annotate(names, range(len(names)), [(0, 0)] * len(names), [], [])


def as_objects(rows: Sequence[ObjectRow]) -> Objects:
    """Convert Python values to tensors; boxes are float64 until they are checked."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(_DTYPES)
    values = [torch.tensor(c, dtype=dtype) for c, dtype in zip(columns, _DTYPES, strict=True)]
    return Objects(values[0].reshape(-1, 4), *values[1:])


def join_objects(parts: Sequence[Objects]) -> Objects:
    """Concatenate the objects of several images, with boxes in float32."""
    joined = Objects(*(torch.cat(values) for values in zip(as_objects([]), *parts, strict=True)))
    return joined._replace(boxes=joined.boxes.float())
