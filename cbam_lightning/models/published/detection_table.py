"""The paper's detectors beside ours: for the terminal, or as CSV, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import torch

from cbam_lightning.checks import check_choice
from cbam_lightning.models.published.classification_rows import DIFFERS, NO_FIGURE, REPRODUCED
from cbam_lightning.models.published.detection_rows import PublishedDetector, published_detectors
from cbam_lightning.tables import aligned, as_csv, markdown_table, with_notes

_HEADINGS = (
    *("dataset", "detector", "attention", "outputs", "parameters", "Mparam", "paper"),
    *("AP50", "AP75", "AP", "status"),
)
_TEXTS = (0, 1, 2, len(_HEADINGS) - 1)  # columns that hold text
_NOTES = (
    "Parameters: all of them, the weights and biases of plain BatchNorms included, with as many outputs as "
    "classes and background. (With frozen BatchNorms, which torchvision counts as buffers, there are fewer.)",
    "paper: https://arxiv.org/abs/1807.06521, millions of parameters with the digits it prints, and APs in "
    "percent; on VOC AP50 by the rules of 2007. No AP of COCO or VOC was measured here.",
    "SSD has the paper's parameters with six default boxes at a position of conv4_3; torchvision's four give "
    "26.3 million. StairNet is built as its second author's code has it.",
)


class DetectorRow(NamedTuple):
    """A row of the paper with the parameters of our detector."""

    published: PublishedDetector
    params: int

    @property
    def status(self) -> str:
        """Say how the row stands to the paper: reproduced if equal in the digits that it prints."""
        theirs = self.published.params_m
        if theirs is None:
            return NO_FIGURE
        return REPRODUCED if _millions(self.params).quantize(theirs) == theirs else DIFFERS


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
    check_choice("format", format, _RENDERERS)
    return _RENDERERS[format](detector_rows())


def _count(row: PublishedDetector) -> int:
    from cbam_lightning.models.detection import create_detector

    with torch.device("meta"):
        detector = create_detector(row.detector, attention=row.attention, num_classes=row.num_classes)
    return sum(parameter.numel() for parameter in detector.parameters())


def _millions(count: int) -> Decimal:
    return Decimal(count) / 1_000_000


def _cells(row: DetectorRow) -> tuple[str, ...]:
    published = row.published
    figures = (published.params_m, published.map_50, published.map_75, published.map)
    paper, *aps = ("-" if figure is None else str(figure) for figure in figures)
    return (
        *(published.dataset, published.detector, published.attention),
        *(str(published.num_classes), f"{row.params:,}", f"{_millions(row.params):.2f}", paper),
        *(*aps, row.status),
    )


def _terminal(rows: Sequence[DetectorRow]) -> str:
    return with_notes(aligned([_HEADINGS, *map(_cells, rows)], left=_TEXTS), _NOTES, indent="  ")


def _markdown(rows: Sequence[DetectorRow]) -> str:
    return markdown_table([_HEADINGS, *map(_cells, rows)], _NOTES, left=_TEXTS)


def _record(row: DetectorRow) -> dict[str, Any]:
    published = row.published._asdict()
    record = {
        **{name: published[name] for name in ("dataset", "detector", "attention", "num_classes")},
        "params": row.params,
        **{f"published_{name}": published[name] for name in ("params_m", "map_50", "map_75", "map")},
        "status": row.status,
    }
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in record.items()}


def _csv(rows: Sequence[DetectorRow]) -> str:
    return as_csv(list(map(_record, rows))).removesuffix("\n")


def _json(rows: Sequence[DetectorRow]) -> str:
    return json.dumps(list(map(_record, rows)), indent=2)


_RENDERERS: dict[str, Callable[[Sequence[DetectorRow]], str]] = {
    "terminal": _terminal,
    "csv": _csv,
    "markdown": _markdown,
    "json": _json,
}
