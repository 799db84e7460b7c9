"""What a detection data set hands to the trainer: images of any sizes, and the objects in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.data.batch import BadImage


class Objects(NamedTuple):
    """Objects of one image, or of many in a row.

    Attributes:
        boxes: float32 (T, 4), left, top, right and bottom in pixels; the first pixel begins at 0, and right
            and bottom are where the object's last pixels end, so that a box is right - left pixels wide.
        labels: int64 (T,) in 1..K; 0 is the background of torchvision's detectors.
        difficult: bool (T,), neither learnt nor counted in evaluation (Pascal VOC).
        crowd: bool (T,), a box around many objects; not learnt, and in evaluation any number of detections
            may lie in it (COCO's ``iscrowd``).
        areas: float32 (T,), pixels of the object in the image as stored, by which COCO calls it small, medium
            or large; from the object's outline where the data have one, else of the box.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    areas: Tensor

    def select(self, which: Tensor | slice) -> Objects:
        """Return some objects, by positions, by a mask or by a slice."""
        return Objects(*(values[which] for values in self))


class DetectionBatch(NamedTuple):
    """Images and their objects, as torchvision's detectors take them; Lightning moves it to a device.

    Lightning cannot find out its size: give ``batch_size=len(batch.images)`` to ``self.log``.

    Attributes:
        images: N of (C, H, W), each of its own size. uint8 in [0, 255] from the loader; after
            ``DetectionDataModule.on_after_batch_transfer`` float32 in [0, 1], not normalised. N is 0 if none
            of the files could be read.
        targets: For each image the fields of ``Objects`` by name; boxes are in pixels of this image. An image
            without objects has boxes of shape (0, 4).
        image_ids: int64 (N,), those of COCO's JSON, or numbers made of the files' names.
        original_sizes: int64 (N, 2), height and width of the images as stored; see ``scale_boxes``.
        indices: int64 (N,), positions in the data set of the split.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    image_ids: Tensor
    original_sizes: Tensor
    indices: Tensor


class DetectionFileBatch(NamedTuple):
    """A batch as the worker sends it, together with the files that failed; see ``data.batch.FileBatch``.

    Few tensors for all of it: between processes each takes a file descriptor, of which a process has 1,024.

    Attributes:
        images: uint8 (N, C, H, W), or N of (C, H, W) where their sizes differ.
        objects: Those of all images, one image after the other.
        counts: int64 (N,), objects of each image.
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
        """The readable images, each with its own objects."""
        parts = zip(*(values.split_with_sizes(self.counts.tolist()) for values in self.objects), strict=True)
        targets = [Objects(*part)._asdict() for part in parts] if len(self.counts) else []
        return DetectionBatch(list(self.images), targets, self.image_ids, self.original_sizes, self.indices)


def scale_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Move boxes from an image to another size of it, for example from a batch's to the one on disk.

    Args:
        boxes: (T, 4), left, top, right, bottom.
        size: Height and width of the image that the boxes are in.
        new_size: Height and width of the other.

    Returns:
        (T, 4).
    """
    down, right = (new / old for new, old in zip(new_size, size, strict=True))
    return boxes * torch.tensor([right, down, right, down], dtype=boxes.dtype, device=boxes.device)
