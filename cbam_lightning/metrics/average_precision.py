"""Average precision of a split's detections, by COCO's and by VOC's rules."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics.detection import MeanAveragePrecision

from cbam_lightning.errors import UsageError
from cbam_lightning.metrics.voc_ap import voc_average_precision

Boxes = Mapping[str, Tensor]
# as in pycocotools; the defaults of torchmetrics are float32, which a recall of exactly 0.29 does not reach
_OVERLAPS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0, 1, 101).tolist()


class Detections:
    """Collects the detections of images, on any number of processes.

    Args:
        num_classes: Number of classes, without the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._images: dict[int, tuple[Boxes, Boxes]] = {}

    def clear(self) -> None:
        """Discard all images."""
        self._images.clear()

    def add(self, indices: Tensor, detections: Sequence[Boxes], targets: Sequence[Boxes]) -> None:
        """Add images.

        Args:
            indices: int64 (N,), positions in the data set; an image that is added twice counts once.
            detections: For each image ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,).
            targets: For each image ``boxes`` (T, 4), ``labels``, ``difficult`` and ``crowd`` (T,).
        """
        for index, boxes, truth in zip(indices.tolist(), detections, targets, strict=True):
            self._images[index] = _on_cpu(boxes), _on_cpu(truth)

    def average_precision(self) -> dict[str, Tensor]:
        """Return the means over classes, from the images of all processes; call it on each of them.

        Returns:
            ``map`` (mean over overlaps of 0.5, 0.55, ..., 0.95), ``map_50`` and ``map_75`` by COCO's rules,
            ``map_voc07`` by those of VOC 2007, in [0, 1]; 0 if there is no object.
        """
        images = self._of_all_processes()
        detections, targets = [boxes for boxes, _ in images], [truth for _, truth in images]
        by_class = voc_average_precision(detections, targets, self.num_classes)
        voc07 = by_class.nanmean().nan_to_num().float()
        return coco_average_precision(detections, targets) | {"map_voc07": voc07}

    def _of_all_processes(self) -> list[tuple[Boxes, Boxes]]:
        """Return all images in the order of the data set, which ranks equal scores."""
        parts: list[dict[int, tuple[Boxes, Boxes]]] = [self._images]
        if distributed.is_available() and distributed.is_initialized():
            parts = [{} for _ in range(distributed.get_world_size())]
            distributed.all_gather_object(parts, self._images)
        together = {index: image for part in parts for index, image in part.items()}
        return [together[index] for index in sorted(together)]


def coco_average_precision(detections: Sequence[Boxes], targets: Sequence[Boxes]) -> dict[str, Tensor]:
    """Return ``map``, ``map_50`` and ``map_75`` by COCO's rules, computed by faster-coco-eval.

    At most 100 detections per image count. Objects that VOC calls difficult are treated as COCO's crowds:
    missing one costs nothing, and a detection of one is not false.

    Args:
        detections: As for ``Detections.add``.
        targets: As there; ``difficult`` and ``crowd`` are optional.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    require_backend()
    metric = MeanAveragePrecision(
        iou_thresholds=_OVERLAPS,
        rec_thresholds=_RECALLS,
        backend="faster_coco_eval",
        sync_on_compute=False,  # the images of all processes are here
    )
    metric.warn_on_many_detections = False
    for boxes, truth in zip(detections, targets, strict=True):
        crowd = truth.get("crowd", torch.zeros_like(truth["labels"])).bool()
        difficult = truth.get("difficult", torch.zeros_like(crowd)).bool()
        ignored = {"iscrowd": (crowd | difficult).long()}
        metric.update([dict(boxes)], [{"boxes": truth["boxes"], "labels": truth["labels"], **ignored}])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about no detection at all, which is a valid result
        scores = metric.compute()
    return {name: scores[name].clamp(min=0) for name in ("map", "map_50", "map_75")}


def require_backend() -> None:
    """Refuse to continue without the package that computes COCO's average precision.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise UsageError("faster-coco-eval is not installed: pip install 'cbam_lightning[detection]'")


def _on_cpu(boxes: Boxes) -> Boxes:
    return {name: value.detach().cpu() for name, value in boxes.items() if isinstance(value, Tensor)}
