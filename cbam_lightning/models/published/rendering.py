"""The published rows and ours as text: for the terminal, or as CSV, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from cbam_lightning.checks import check_choice
from cbam_lightning.models.complexity import CONVENTION
from cbam_lightning.models.published.classification_rows import (
    CONTRADICTION,
    DIFFERS,
    GFLOPS_TOLERANCE,
    NO_FIGURE,
    NOT_IN_THE_PAPER,
    PARAMS_M_TOLERANCE,
    REPRODUCED,
    ClassificationRow,
)
from cbam_lightning.tables import aligned, as_csv, markdown_table, with_notes

_SHORT_STATUS = {
    REPRODUCED: "reproduced",
    DIFFERS: "differs",
    CONTRADICTION: "contradicts",
    NO_FIGURE: "no figure",
    NOT_IN_THE_PAPER: "added",
}
_HEADINGS = (
    "network",
    "attention",
    "Mparam",
    "paper",
    "diff",
    "GFLOPs",
    "paper",
    "diff",
    "v1.5",
    "top-1",
    "top-5",
    "status",
)
_TEXTS = (0, 1, len(_HEADINGS) - 1)  # columns that hold text
_NOTES = (
    CONVENTION,
    "paper: https://arxiv.org/abs/1807.06521, with the digits it prints; diff: ours minus the paper's; top-1 "
    "and top-5: the paper's errors in percent.",
    "v1.5: a bottleneck's stride in its 3x3 convolution, which is what create_model builds. The columns "
    "before have it in the first 1x1, as the paper counts (network option stride_in: 1x1).",
    f"reproduced: within {PARAMS_M_TOLERANCE} million parameters and {GFLOPS_TOLERANCE} GFLOPs, or equal in "
    "the digits that the paper prints.",
    "contradicts: the paper's channel ablation gives 25.92 million parameters to networks that have 28.09 in "
    "its other tables, as they have here. 25.92 and 3.94 GFLOPs are those of resnet50 with bam; no network "
    "is known here that has 4.02.",
    "no figure: the paper publishes the errors alone.",
)


def check_format(format: str) -> None:  # noqa: A002 - the name of the command's option
    """Raise a ``UsageError`` with the closest match unless ``render`` knows the format."""
    check_choice("format", format, _RENDERERS)


def render(rows: Sequence[ClassificationRow], format: str = "terminal") -> str:  # noqa: A002
    """Return the rows as text.

    Args:
        rows: What ``published.rows`` returned.
        format: ``terminal`` and ``markdown``: rounded, with notes on what was counted. ``csv`` and
            ``json``: to 6 decimals, a field each, without notes.

    Raises:
        UsageError: An unknown format.
    """
    check_format(format)
    return _RENDERERS[format](rows)


def _terminal(rows: Sequence[ClassificationRow]) -> str:
    headings, *cells = aligned([_HEADINGS, *map(_cells, rows)], left=_TEXTS)
    lines = [headings]
    for index, (row, line) in enumerate(zip(rows, cells, strict=True)):
        if index == 0 or _title(row) != _title(rows[index - 1]):
            lines += ["", _title(row)]
        lines.append(line)
    return with_notes(lines, _NOTES, indent="  ")


def _markdown(rows: Sequence[ClassificationRow]) -> str:
    lines = [["table", *_HEADINGS], *([_title(row), *_cells(row)] for row in rows)]
    return markdown_table(lines, _NOTES, left=(0, *(column + 1 for column in _TEXTS)))


def _csv(rows: Sequence[ClassificationRow]) -> str:
    records = [_record(row) for row in rows]
    for record in records:
        options = record["attention_options"]
        record["attention_options"] = ";".join(f"{name}={_plain(value)}" for name, value in options.items())
    return as_csv(records).removesuffix("\n")


def _json(rows: Sequence[ClassificationRow]) -> str:
    return json.dumps([_record(row) for row in rows], indent=2)


_RENDERERS: dict[str, Callable[[Sequence[ClassificationRow]], str]] = {
    "terminal": _terminal,
    "csv": _csv,
    "markdown": _markdown,
    "json": _json,
}


def _record(row: ClassificationRow) -> dict[str, Any]:
    published = row.published
    record = {
        "table": row.table,
        "network": row.network,
        "attention": row.attention,
        "attention_options": row.attention_options,
        "size_px": row.size_px,
        "params_m": row.params_m,
        "published_params_m": published and published.params_m,
        "params_m_difference": row.params_m_difference,
        "gflops": row.gflops,
        "published_gflops": published and published.gflops,
        "gflops_difference": row.gflops_difference,
        "gflops_default": row.gflops_default,
        "published_top1_error": published and published.top1_error,
        "published_top5_error": published and published.top5_error,
        "status": row.status,
    }
    numbers = (float, Decimal)
    return {
        name: round(float(value), 6) if isinstance(value, numbers) else value
        for name, value in record.items()
    }


def _cells(row: ClassificationRow) -> tuple[str, ...]:
    published = row.published
    options = [_brief(name, value) for name, value in row.attention_options.items()]
    return (
        row.network,
        " ".join([row.attention, *options]),
        f"{row.params_m:.2f}",
        _number(published and published.params_m),
        _number(row.params_m_difference, "+.3f"),
        f"{row.gflops:.3f}",
        _number(published and published.gflops),
        _number(row.gflops_difference, "+.4f"),
        "" if row.gflops_default == row.gflops else f"{row.gflops_default:.3f}",
        _number(published and published.top1_error, ".2f"),
        _number(published and published.top5_error, ".2f"),
        _SHORT_STATUS[row.status],
    )


def _brief(name: str, value: Any) -> str:
    return f"{value}x{value}" if name == "kernel_size" else _plain(value)


def _plain(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _number(value: float | Decimal | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)


def _title(row: ClassificationRow) -> str:
    return f"{row.table}, {row.size_px} px"
