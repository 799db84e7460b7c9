"""Average precision by the rules of PASCAL VOC's development kit.

Everingham, Van Gool, Williams, Winn and Zisserman, IJCV 2010, section 4.2
(https://doi.org/10.1007/s11263-009-0275-4), and VOCevaldet.m of the kit
(http://host.robots.ox.ac.uk/pascal/VOC/voc2007/). COCO's rules, which libraries implement, differ: they have
no difficult objects, and let a detection match the second-best object if the best is already matched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

_MIN_OVERLAP = 0.5


def voc_average_precision(
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    num_classes: int,
    rule: Literal["2007", "2010"] = "2007",
) -> Tensor:
    """Return the average precision of each class.

    Args:
        detections: For each image ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,).
        targets: For each image ``boxes`` (T, 4), ``labels`` (T,) and, where some are, ``difficult`` (T,).
            Boxes are x1, y1, x2, y2 with x2 - x1 the full width: they include the ``+ 1`` of the kit, whose
            corners are pixels.
        num_classes: Number of classes, without the background; labels are 1 to ``num_classes``.
        rule: ``2007`` is the mean of the best precision at recalls of at least 0, 0.1, ..., 1; ``2010``, the
            rule since then, is the area under the curve made non-increasing.

    Returns:
        float64 (num_classes,) in [0, 1]; NaN for a class whose objects are all difficult, or that has none.
    """
    empty = torch.zeros(0)
    scores, labels, hits = [empty], [empty.long()], [empty.bool()]
    num_objects = torch.zeros(num_classes + 1, dtype=torch.int64)
    for boxes, truth in zip(detections, targets, strict=True):
        difficult = truth.get("difficult", torch.zeros_like(truth["labels"])).bool()
        num_objects += torch.bincount(truth["labels"][~difficult], minlength=num_classes + 1)
        hit, counts = match(boxes, truth, difficult)
        scores.append(boxes["scores"][counts])
        labels.append(boxes["labels"][counts])
        hits.append(hit[counts])
    order = torch.cat(scores).argsort(descending=True, stable=True)
    label, hit = torch.cat(labels)[order], torch.cat(hits)[order]
    return torch.stack(
        [_average_precision(hit[label == k], int(num_objects[k]), rule) for k in range(1, num_classes + 1)]
    )


def match(
    boxes: Mapping[str, Tensor], truth: Mapping[str, Tensor], difficult: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which detections of an image are hits, and which count at all.

    A detection belongs to the object of its class with which it overlaps most, if by at least 0.5. The one
    with the highest score is a hit, all others are false; those of a difficult object are ignored.

    Args:
        boxes: ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,).
        truth: ``boxes`` (T, 4) and ``labels`` (T,).
        difficult: bool (T,).

    Returns:
        Hits and counts, bool (D,) each.
    """
    hits = torch.zeros_like(boxes["labels"], dtype=torch.bool)
    if not len(hits) or not len(difficult):
        return hits, torch.ones_like(hits)
    overlaps = box_iou(boxes["boxes"].double(), truth["boxes"].double())  # (D, T)
    overlaps[boxes["labels"][:, None] != truth["labels"]] = -1
    best, owner = overlaps.max(1)
    belongs = best >= _MIN_OVERLAP
    taken: set[int] = set()
    for detection in boxes["scores"].argsort(descending=True, stable=True).tolist():
        if belongs[detection] and int(owner[detection]) not in taken:
            taken.add(int(owner[detection]))
            hits[detection] = True
    ignored = belongs & difficult[owner]
    return hits & ~ignored, ~ignored


def _average_precision(hits: Tensor, num_objects: int, rule: str) -> Tensor:
    """Return the area under precision over recall of hits (D,) in the order of their scores."""
    if not num_objects:
        return torch.tensor(torch.nan, dtype=torch.float64)
    if not len(hits):
        return torch.zeros((), dtype=torch.float64)
    true = hits.double().cumsum(0)
    recall = true / num_objects
    precision = true / torch.arange(1, len(hits) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall and beyond
    if rule == "2007":
        levels = torch.arange(11, dtype=torch.float64) / 10
        reached = recall >= levels[:, None]  # (11, D)
        return torch.where(reached, best, 0).amax(1).mean()
    return (torch.diff(recall, prepend=torch.zeros(1, dtype=torch.float64)) * best).sum()
