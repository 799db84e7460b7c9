"""Augmentation of an image together with its boxes: the recipes of SSD and Faster R-CNN, by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cbam_lightning.data.detection.detection_batch import Objects

Augmentation = Literal["ssd", "flip", "none"]
DetectionTransform = Callable[[Tensor, Objects], tuple[Tensor, Objects]]

# RandomIoUCrop divides by the height of the crop, at least 0.3 times that of the image, rounded down.
_SMALLEST_CROP_PX = 4


class Augmented:
    """Random augmentation and resizing.

    The random numbers come from torch's global generator, which the data set seeds for each image. Resizing
    is antialiased, in training as in evaluation.

    Args:
        augmentation: "ssd" for colour distortion, zooming out, cropping and mirroring
            (https://arxiv.org/abs/1512.02325, section 2.2, and the authors' code), "flip" for mirroring only
            (https://arxiv.org/abs/1506.01497), "none" for nothing.
        size_px: Height and width of the result, regardless of the aspect ratio; ``None`` keeps the size.
        mean: Mean of each channel, in [0, 1]; zooming out fills the surroundings with it.
    """

    def __init__(self, augmentation: Augmentation, size_px: int | None, mean: Sequence[float]) -> None:
        self._is_ssd = augmentation == "ssd"
        surround = {tv_tensors.Image: [round(255 * value) for value in mean], "others": 0}
        self._distort = v2.Compose([v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=surround)])
        self._crop = v2.RandomIoUCrop()
        last: list[v2.Transform] = [v2.RandomHorizontalFlip(0.0 if augmentation == "none" else 0.5)]
        if size_px is not None:
            last.append(v2.Resize((size_px, size_px)))
        self._last = v2.Compose(last)

    def __call__(self, image: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
        """Transform uint8 (C, H, W) and its objects to another such image and the remaining objects."""
        boxes = tv_tensors.BoundingBoxes(objects.boxes, format="XYXY", canvas_size=tuple(image.shape[1:]))
        pair = tv_tensors.Image(image), boxes
        if self._is_ssd:
            pair = self._distort(*pair)
            # without boxes, the crop would search long and in vain
            if len(boxes) and min(pair[0].shape[1:]) >= _SMALLEST_CROP_PX:
                pair = self._crop(*pair)
        changed, boxes = self._last(*pair)
        if self._is_ssd:  # leave out boxes that the crop has marked as lost, and those smaller than a pixel
            # rounding can move a side of a box that fills the image a millionth of a pixel outside
            boxes = v2.functional.clamp_bounding_boxes(boxes)
            boxes, kept = v2.functional.sanitize_bounding_boxes(boxes)
            objects = objects.select(kept)
        return changed.as_subclass(Tensor), objects._replace(boxes=boxes.as_subclass(Tensor))
