"""The rows of the paper's detection tables, with our names. No AP among them was measured here."""

from __future__ import annotations

import csv
from decimal import Decimal
from importlib.resources import files
from typing import NamedTuple

_DETECTORS = {
    ("Faster R-CNN", "ResNet-101"): "faster_rcnn_resnet101_c4",
    ("SSD", "VGG16"): "ssd300_vgg16",
    ("StairNet", "VGG16"): "stairnet_vgg16",
}
# Including the background; COCO has 80 classes.
_NUM_CLASSES = {"MS-COCO": 81, "VOC 2007 test": 21}


class PublishedDetector(NamedTuple):
    """A row of the paper, with our names and the printed digits; ``None`` where the paper gives no value.

    The paper does not say how it counts parameters. Counting all of ours, including weights and biases of
    plain BatchNorms, gives its values.

    Attributes:
        dataset: The paper's name of the data set, with the test split.
        detector: Name for ``create_detector``.
        attention: Name for ``create_detector``.
        num_classes: Number of classes including the background.
        params_m: Millions of parameters.
        map_50: AP at an overlap of 0.5 in percent; on VOC by the rules of 2007, from 11 recalls.
        map_75: AP at an overlap of 0.75 in percent.
        map: Mean AP at overlaps of 0.5 to 0.95 in percent.
    """

    dataset: str
    detector: str
    attention: str
    num_classes: int
    params_m: Decimal | None
    map_50: Decimal
    map_75: Decimal | None
    map: Decimal | None


def published_detectors() -> list[PublishedDetector]:
    """Read ``detection.csv``, in its order."""
    text = files("cbam_lightning.models.published").joinpath("detection.csv").read_text("utf-8")
    return [_parse(line) for line in csv.DictReader(text.splitlines())]


def _parse(line: dict[str, str]) -> PublishedDetector:
    return PublishedDetector(
        dataset=line["dataset"],
        detector=_DETECTORS[line["detector"], line["backbone"]],
        attention=line["attention"],
        num_classes=_NUM_CLASSES[line["dataset"]],
        params_m=_decimal(line["params_m"]),
        map_50=Decimal(line["map_50"]),
        map_75=_decimal(line["map_75"]),
        map=_decimal(line["map_50_95"]),
    )


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if text else None
