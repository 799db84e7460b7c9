"""Boxes that are wrong: an error where nobody can know what was meant, else a correction that is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from cbam_lightning.data.detection.detection_batch import Objects
from cbam_lightning.errors import UsageError

# COCO rounds to hundredths of a pixel, and so does its sum of a box's left side and width.
TOLERANCE_PX = 0.1
MAX_OBJECTS_SHOWN = 3


@dataclass
class BoxLog:
    """The boxes that were corrected.

    Attributes:
        clipped: What reached out of its image, and was cut off at its border.
        dropped: What has no area in its image, and was left out.
    """

    clipped: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def report(self) -> None:
        """Warn of both kinds, each in one line."""
        for what, why, found in (
            ("clipped", "reach out of their images", self.clipped),
            ("left out", "have no area in their images", self.dropped),
        ):
            if found:
                more = len(found) - MAX_OBJECTS_SHOWN
                shown = found[:MAX_OBJECTS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
                rank_zero_warn(f"{what} {len(found)} boxes that {why}: {'; '.join(shown)}")


def check_boxes(
    objects: Objects, sizes: Tensor, describe: Callable[[int], str], log: BoxLog
) -> tuple[Objects, Tensor]:
    """Cut boxes off at the borders of their images, and leave out those of which nothing remains.

    Args:
        objects: T of them, with boxes in float64.
        sizes: int64 (T, 2), height and width of the image of each.
        describe: From the position of an object to its file and place, for messages.
        log: Gets what is corrected.

    Returns:
        The objects that remain, with boxes in float32, and their positions, int64.

    Raises:
        UsageError: A box has a coordinate that is no finite number, or ends before it begins.
    """
    boxes = objects.boxes
    _refuse(~boxes.isfinite().all(1), "has a coordinate that is no finite number", boxes, describe)
    reversed_ = (boxes[:, 2:] < boxes[:, :2]).any(1)
    _refuse(reversed_, "has its right or bottom side before its left or top one", boxes, describe)
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
        message = f"{describe(first)} {problem}: left, top, right, bottom {box}; correct or remove it."
        raise UsageError(message)
