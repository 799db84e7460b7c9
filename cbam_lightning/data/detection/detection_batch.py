"""Batches for detection: images of any size, and the objects in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.data.batch import BadImage


class Objects(NamedTuple):
    """Objects of one image, or of several, one image after the other.

    Attributes:
        boxes: float32 (T, 4), left, top, right and bottom in pixels. The first pixel starts at 0, and right
            and bottom are the ends of the last pixels, so that a box is right - left pixels wide.
        labels: int64 (T,) in 1..K; 0 is the background of torchvision's detectors.
        difficult: bool (T,), neither trained on nor counted in evaluation (Pascal VOC).
        crowd: bool (T,), a box around many objects. It is not trained on, and in evaluation any number of
            detections may lie in it (COCO's ``iscrowd``).
        areas: float32 (T,), area of the object in pixels of the stored image, by which COCO classifies it as
            small, medium or large; that of the outline where the data have one, else of the box.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    areas: Tensor

    def select(self, which: Tensor | slice) -> Objects:
        """Return the objects of a position tensor, a mask or a slice."""
        return Objects(*(values[which] for values in self))


class DetectionBatch(NamedTuple):
    """Images and their objects, as torchvision's detectors take them; Lightning moves it to a device.

    Lightning cannot infer its size: pass ``batch_size=len(batch.images)`` to ``self.log``.

    Attributes:
        images: N images (C, H, W) of any size. uint8 in [0, 255] from the loader; float32 in [0, 1], not
            normalised, after ``DetectionDataModule.on_after_batch_transfer``. N is 0 if no file could be
            read.
        targets: For each image, the fields of ``Objects`` by name; boxes are in pixels of this image. An
            image without objects has boxes of shape (0, 4).
        image_ids: int64 (N,), the ids in COCO's JSON, or numbers made of the file names.
        original_sizes: int64 (N, 2), height and width of the images as read; see ``scale_boxes``.
        indices: int64 (N,), positions in the data set of the split.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    image_ids: Tensor
    original_sizes: Tensor
    indices: Tensor


class DetectionFileBatch(NamedTuple):
    """A batch as the worker process sends it, with the files that failed; see ``data.batch.FileBatch``.

    It has few tensors, because each one sent between processes takes one of a process's 1,024 file
    descriptors.

    Attributes:
        images: uint8 (N, C, H, W), or N images (C, H, W) if their sizes differ.
        objects: Objects of all images, one image after the other.
        counts: int64 (N,), number of objects in each image.
        image_ids: int64 (N,).
        original_sizes: int64 (N, 2).
        indices: int64 (N,).
        bad: The files left out of the batch.
    """

    images: Tensor | list[Tensor]
    objects: Objects
    counts: Tensor
    image_ids: Tensor
    original_sizes: Tensor
    indices: Tensor
    bad: tuple[BadImage, ...]

    @property
    def batch(self) -> DetectionBatch:
        """The readable images, each with its objects."""
        parts = zip(*(values.split_with_sizes(self.counts.tolist()) for values in self.objects), strict=True)
        targets = [Objects(*part)._asdict() for part in parts] if len(self.counts) else []
        return DetectionBatch(list(self.images), targets, self.image_ids, self.original_sizes, self.indices)


def scale_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Scale boxes to another size of their image, for example from the batch's to that on disk.

    Args:
        boxes: (T, 4), left, top, right, bottom.
        size: Height and width of the image of the boxes.
        new_size: New height and width.

    Returns:
        (T, 4).
    """
    down, right = (new / old for new, old in zip(new_size, size, strict=True))
    return boxes * torch.tensor([right, down, right, down], dtype=boxes.dtype, device=boxes.device)
