"""Checks of annotated boxes: an error for senseless ones, a counted correction for slightly wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from cbam_lightning.data.detection.detection_batch import Objects
from cbam_lightning.errors import UsageError

# COCO rounds to hundredths of a pixel, and so does the sum of a box's left side and width.
TOLERANCE_PX = 0.1
MAX_OBJECTS_SHOWN = 3


@dataclass
class BoxLog:
    """The boxes that were corrected.

    Attributes:
        clipped: Descriptions of boxes that were clipped to their images.
        dropped: Descriptions of boxes that were left out, because they have no area in their images.
    """

    clipped: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def report(self) -> None:
        """Warn of both kinds, each in one line."""
        for what, why, boxes in (
            ("clipped", "reach out of their images", self.clipped),
            ("left out", "have no area in their images", self.dropped),
        ):
            if boxes:
                more = len(boxes) - MAX_OBJECTS_SHOWN
                shown = boxes[:MAX_OBJECTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
                rank_zero_warn(f"{what} {len(boxes)} boxes that {why}: {'; '.join(shown)}")


def check_boxes(
    objects: Objects, sizes: Tensor, describe: Callable[[int], str], log: BoxLog
) -> tuple[Objects, Tensor]:
    """Clip boxes to their images, and leave out those of which nothing remains.

    Args:
        objects: T objects, with boxes in float64.
        sizes: int64 (T, 2), height and width of each object's image.
        describe: Returns the file and place of the object at a position, for error messages.
        log: Log of the corrections.

    Returns:
        The objects that remain, with boxes in float32, and their positions, int64.

    Raises:
        UsageError: A box has a coordinate that is not a finite number, or ends before it begins.
    """
    boxes = objects.boxes
    _refuse(~boxes.isfinite().all(1), "has a coordinate that is not a finite number", boxes, describe)
    reversed_ = (boxes[:, 2:] < boxes[:, :2]).any(1)
    _refuse(reversed_, "has right < left or bottom < top", boxes, describe)
    height, width = sizes.to(boxes.dtype).unbind(1)
    limits = torch.stack([width, height, width, height], 1)
    inside = boxes.clamp(min=0).minimum(limits)
    kept = (inside[:, 2:] > inside[:, :2]).all(1)
    clipped = ((inside - boxes).abs() > TOLERANCE_PX).any(1) & kept
    log.clipped += map(describe, clipped.nonzero().flatten().tolist())
    log.dropped += map(describe, (~kept).nonzero().flatten().tolist())
    return objects._replace(boxes=inside.float()).select(kept), kept.nonzero().flatten()


def _refuse(wrong: Tensor, problem: str, boxes: Tensor, describe: Callable[[int], str]) -> None:
    if wrong.any():
        first = int(wrong.nonzero()[0])
        box = ", ".join(f"{value:g}" for value in boxes[first].tolist())
        raise UsageError(
            f"{describe(first)} {problem}: left, top, right, bottom {box}; correct or remove it."
        )
