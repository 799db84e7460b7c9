"""The rows of the paper's detection tables beside our detectors. No AP among them was measured here."""

from __future__ import annotations

import csv
from decimal import Decimal
from importlib.resources import files
from typing import Any, NamedTuple

import torch

from cbam_lightning.checks import check_choice
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.published.classification_rows import DIFFERS, NO_FIGURE, REPRODUCED
from cbam_lightning.tables import FORMATS, Table

_DETECTORS = {
    ("Faster R-CNN", "ResNet-101"): "faster_rcnn_resnet101_c4",
    ("SSD", "VGG16"): "ssd300_vgg16",
    ("StairNet", "VGG16"): "stairnet_vgg16",
}
# Including the background; COCO has 80 classes.
_NUM_CLASSES = {"MS-COCO": 81, "VOC 2007 test": 21}
_HEADINGS = (
    *("dataset", "detector", "attention", "outputs", "parameters", "Mparam", "paper"),
    *("AP50", "AP75", "AP", "status"),
)
_NOTES = (
    "Parameters: all of them, with one output for each class and the background. This includes the weights "
    "and biases of plain BatchNorms; torchvision counts those of frozen BatchNorms as buffers.",
    "paper: https://arxiv.org/abs/1807.06521, millions of parameters with the digits it prints, and APs in "
    "percent; on VOC, AP50 by the rules of 2007. No AP of COCO or VOC was measured here.",
    "SSD has the paper's parameters with six default boxes at each position of conv4_3; torchvision's four "
    "give 26.3 million. StairNet follows the code of its second author.",
)


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


class DetectorRow(NamedTuple):
    """A row of the paper with the parameters of our detector."""

    published: PublishedDetector
    params: int

    @property
    def status(self) -> str:
        """Return how the row compares with the paper: reproduced if equal in the digits that it prints."""
        printed = self.published.params_m
        if printed is None:
            return NO_FIGURE
        return REPRODUCED if _millions(self.params).quantize(printed) == printed else DIFFERS


def published_detectors() -> list[PublishedDetector]:
    """Read ``detection.csv``, in its order."""
    text = files("cbam_lightning.models.published").joinpath("detection.csv").read_text("utf-8")
    return [_parse(line) for line in csv.DictReader(text.splitlines())]


def detector_rows() -> list[DetectorRow]:
    """Count the parameters of the detector of every published row."""
    return [DetectorRow(row, _count(row)) for row in published_detectors()]


def detection_table(format: str = "terminal") -> str:  # noqa: A002 - the name of the command's option
    """Return every published detector beside ours, ready to print.

    Args:
        format: ``terminal``, ``csv``, ``markdown`` or ``json``.

    Raises:
        UsageError: An unknown format.
    """
    check_choice("format", format, FORMATS)
    rows = detector_rows()
    cells, records = [_cells(row) for row in rows], [_record(row) for row in rows]
    return Table(_HEADINGS, cells, left=(0, 1, 2, 10), notes=_NOTES, records=records).render(format)


def _parse(line: dict[str, str]) -> PublishedDetector:
    dataset, detector = line["dataset"], _DETECTORS[line["detector"], line["backbone"]]
    columns = ("params_m", "map_50", "map_75", "map_50_95")
    values: list[Any] = [Decimal(line[name]) if line[name] else None for name in columns]
    return PublishedDetector(dataset, detector, line["attention"], _NUM_CLASSES[dataset], *values)


def _count(row: PublishedDetector) -> int:
    with torch.device("meta"):
        detector = create_detector(row.detector, attention=row.attention, num_classes=row.num_classes)
    return sum(parameter.numel() for parameter in detector.parameters())


def _millions(count: int) -> Decimal:
    return Decimal(count) / 1_000_000


def _cells(row: DetectorRow) -> list[str]:
    published = ["-" if value is None else str(value) for value in row.published]
    return [*published[:4], f"{row.params:,}", f"{_millions(row.params):.2f}", *published[4:], row.status]


def _record(row: DetectorRow) -> dict[str, Any]:
    published = [float(value) if isinstance(value, Decimal) else value for value in row.published]
    names = ["dataset", "detector", "attention", "num_classes", "params"]
    names += [f"published_{name}" for name in ("params_m", "map_50", "map_75", "map")]
    values = [*published[:4], row.params, *published[4:]]
    return dict(zip(names, values, strict=True)) | {"status": row.status}
