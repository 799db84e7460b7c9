"""Checks of annotated boxes: an error for senseless ones, a warning and a correction for others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from cbam_lightning.data.detection.detection_batch import Objects
from cbam_lightning.errors import UsageError

# COCO rounds to hundredths of a pixel, and so does the sum of a box's left side and width.
TOLERANCE_PX = 0.1
MAX_OBJECTS_SHOWN = 3


def check_boxes(objects: Objects, sizes: Tensor, describe: Callable[[int], str]) -> tuple[Objects, Tensor]:
    """Clip boxes to their images, leave out those of which nothing remains, and warn of both, once each.

    Args:
        objects: T objects, with boxes in float64.
        sizes: int64 (T, 2), height and width of each object's image.
        describe: Returns the file and place of the object at a position, for messages.

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
    _warn("clipped {} boxes that reach out of their images", clipped, describe)
    _warn("left out {} boxes that have no area in their images", ~kept, describe)
    return objects._replace(boxes=inside.float()).select(kept), kept.nonzero().flatten()


def _warn(problem: str, which: Tensor, describe: Callable[[int], str]) -> None:
    positions = which.nonzero().flatten().tolist()
    if positions:
        more = len(positions) - MAX_OBJECTS_SHOWN
        shown = [describe(position) for position in positions[:MAX_OBJECTS_SHOWN]]
        if more > 0:
            shown.append(f"and {more} more")
        rank_zero_warn(f"{problem.format(len(positions))}: {'; '.join(shown)}")


def _refuse(wrong: Tensor, problem: str, boxes: Tensor, describe: Callable[[int], str]) -> None:
    if wrong.any():
        row = int(wrong.nonzero()[0])
        box = ", ".join(f"{value:g}" for value in boxes[row].tolist())
        raise UsageError(f"{describe(row)} {problem}: left, top, right, bottom {box}; correct or remove it.")
