"""The paper's detectors beside ours: for the terminal, or as CSV, Markdown or JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import torch

from cbam_lightning.attention.gate import check_choice
from cbam_lightning.models.published.detection import PublishedDetector, published_detectors
from cbam_lightning.models.published.rows import DIFFERS, NO_FIGURE, REPRODUCED

_HEADINGS = (
    *("dataset", "detector", "attention", "outputs", "parameters", "Mparam", "paper"),
    *("AP50", "AP75", "AP", "status"),
)
_NUM_TEXTS = 3  # columns at the left that hold text
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
    cells = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [
            cell.ljust(width) if place < _NUM_TEXTS or place == len(line) - 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    notes = [line for note in _NOTES for line in textwrap.wrap(note, 118, subsequent_indent="  ")]
    return "\n".join([*lines, "", *notes])


def _markdown(rows: Sequence[DetectorRow]) -> str:
    alignment = ["---"] * _NUM_TEXTS + ["---:"] * (len(_HEADINGS) - _NUM_TEXTS - 1) + ["---"]
    lines = [_HEADINGS, alignment, *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, "", *(f"- {note}" for note in _NOTES)])


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
    records = list(map(_record, rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().removesuffix("\n")


def _json(rows: Sequence[DetectorRow]) -> str:
    return json.dumps(list(map(_record, rows)), indent=2)


_RENDERERS: dict[str, Callable[[Sequence[DetectorRow]], str]] = {
    "terminal": _terminal,
    "csv": _csv,
    "markdown": _markdown,
    "json": _json,
}
