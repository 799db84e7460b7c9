"""The paper's classifiers beside ours, as text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cbam_lightning.checks import check_choice
from cbam_lightning.models.complexity import CONVENTION
from cbam_lightning.models.published import classification_rows as classification
from cbam_lightning.models.published.classification_rows import ClassificationRow
from cbam_lightning.tables import FORMATS, Table, join_values

_SHORT_STATUS = {
    classification.CONTRADICTION: "conflicts",
    classification.NO_FIGURE: "no figure",
    classification.NOT_IN_THE_PAPER: "added",
}
_HEADINGS = (
    *("network", "attention", "Mparam", "paper", "diff", "GFLOPs", "paper", "diff", "v1.5"),
    *("top-1", "top-5", "status"),
)
_NOTES = (
    CONVENTION,
    "paper: https://arxiv.org/abs/1807.06521, with the digits it prints; diff: ours minus the paper's; top-1 "
    "and top-5: the paper's errors in percent.",
    "v1.5: with a bottleneck's stride in its 3x3 convolution, as create_model builds it. The columns before "
    "have it in the first 1x1, as the paper counts (network option stride_in: 1x1).",
    f"reproduced: within {classification.PARAMS_M_TOLERANCE} million parameters and "
    f"{classification.GFLOPS_TOLERANCE} GFLOPs, or equal in the digits that the paper prints.",
    "conflicts: the paper's channel ablation gives 25.92 million parameters to networks that have 28.09 in "
    "its other tables and here. resnet50 with bam has 25.92 and 3.94 GFLOPs; we know of no network with "
    "4.02 GFLOPs.",
    "no figure: the paper publishes only the errors.",
)


def table(extra: Sequence[tuple[str, str]] = (), *, size_px: int = 224, format: str = "terminal") -> str:  # noqa: A002 - the name of the command's option
    """Return every published row next to ours, ready to print.

    Args:
        extra: Further pairs of network and attention, as for ``create_model``.
        size_px: Height and width of the images for ``extra``; the published rows are for 224.
        format: ``terminal``, ``csv``, ``markdown`` or ``json``.

    Raises:
        UsageError: An unknown format or name, or a network that does not take images of ``size_px``.
    """
    check_choice("format", format, FORMATS)
    return render(classification.rows(extra, size_px), format)


def render(rows: Sequence[ClassificationRow], format: str = "terminal") -> str:  # noqa: A002 - the command's option
    """Return the rows as text.

    Args:
        rows: What ``classification_rows.rows`` returned.
        format: ``terminal`` and ``markdown``: rounded, with notes on what was counted. ``csv`` and
            ``json``: to 6 decimals, a field for each value, without notes.

    Raises:
        UsageError: An unknown format.
    """
    groups = [f"{row.table}, {row.size_px} px" for row in rows]
    cells, records = [_cells(row) for row in rows], [_record(row) for row in rows]
    return Table(_HEADINGS, cells, (0, 1, 11), _NOTES, groups, records).render(format)


def _record(row: ClassificationRow) -> dict[str, Any]:
    names = ("params_m", "gflops", "top1_error", "top5_error")
    record = row._asdict() | {f"published_{n}": row.published and getattr(row.published, n) for n in names}
    record |= {f"{name}_difference": row.difference(name) for name in ("params_m", "gflops")}
    del record["published"]
    rounded = {n: round(float(v), 6) if isinstance(v, float | Decimal) else v for n, v in record.items()}
    return rounded | {"status": row.status}


def _cells(row: ClassificationRow) -> tuple[str, ...]:
    published = row.published
    options = [_brief(name, value) for name, value in row.attention_options.items()]
    return (
        row.network,
        " ".join([row.attention, *options]),
        f"{row.params_m:.2f}",
        _number(published and published.params_m),
        _number(row.difference("params_m"), "+.3f"),
        f"{row.gflops:.3f}",
        _number(published and published.gflops),
        _number(row.difference("gflops"), "+.4f"),
        "" if row.gflops_default == row.gflops else f"{row.gflops_default:.3f}",
        _number(published and published.top1_error, ".2f"),
        _number(published and published.top5_error, ".2f"),
        _SHORT_STATUS.get(row.status, row.status),
    )


def _brief(name: str, value: Any) -> str:
    return f"{value}x{value}" if name == "kernel_size" else join_values(value)


def _number(value: float | Decimal | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)
