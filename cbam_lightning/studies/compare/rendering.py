"""A comparison as a table for the terminal, as Markdown, as CSV and as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from cbam_lightning.files import check_unwritten
from cbam_lightning.studies.compare.comparison import Comparison, Row
from cbam_lightning.studies.compare.costs import Costs
from cbam_lightning.tables import aligned, as_csv, markdown_table, with_notes

_COLOURS = {"higher": "tab:green", "lower": "tab:red", "unresolved": "tab:gray", "": "tab:gray"}


def terminal(comparison: Comparison) -> str:
    """Return the table with aligned columns, and what it means below."""
    return with_notes(aligned(_lines(comparison)), explain(comparison))


def markdown(comparison: Comparison) -> str:
    """Return the same as a Markdown table with a list of notes."""
    return markdown_table(_lines(comparison), explain(comparison))


def draw(comparison: Comparison) -> Figure:
    """Draw every run as a dot with the mean of its arm, and beside it the difference with its interval."""
    rows = comparison.rows
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(rows)), layout="constrained")
    values, differences = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(rows):
        colour = _COLOURS[row.verdict]
        values.plot(row.values, [place] * len(row.values), "o", color="tab:blue", alpha=0.45, ms=4)
        values.plot(row.mean, place, "|", color="black", ms=14, mew=2)
        if row.difference is not None:
            differences.plot(100 * row.difference, place, "o", color=colour)
        if row.low is not None and row.high is not None:
            differences.plot([100 * row.low, 100 * row.high], [place, place], color=colour)
    differences.axvline(0, color="black", lw=0.8)
    values.set_yticks(range(len(rows)), [row.label for row in rows])
    values.invert_yaxis()
    values.set_xlabel(f"{comparison.metric}: each seed, and the mean")
    differences.set_xlabel(f"difference from {comparison.baseline}, points, 95 % together")
    for panel in (values, differences):
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def save(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write ``comparison.md``, ``comparison.csv`` and ``comparison.png``, and return their paths.

    Raises:
        UsageError: One of them is already there; then none is written.
        OSError: The folder or a file cannot be written.
    """
    paths = _paths(folder)
    check_unwritten(*paths)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths[0].write_text(markdown(comparison) + "\n", encoding="utf-8")
    paths[1].write_text(as_csv([_record(comparison, row) for row in comparison.rows]), encoding="utf-8")
    draw(comparison).savefig(paths[2], dpi=130)
    return paths


def check_folder(folder: str | Path) -> None:
    """Raise a ``UsageError`` if ``save`` would refuse this folder, before anything is measured."""
    check_unwritten(*_paths(folder))


def _paths(folder: str | Path) -> list[Path]:
    return [Path(folder) / f"comparison.{ending}" for ending in ("md", "csv", "png")]


def explain(comparison: Comparison) -> list[str]:
    """Return how the table is to be read, a sentence or two a note."""
    count = len(comparison.rows) - 1
    wording = f"{count} comparisons" if count > 1 else "one comparison"
    notes = [
        f"{comparison.metric} in percent; differences in points, paired by seed with {comparison.baseline}. "
        f"Intervals: paired t-test, {100 * comparison.confidence:.4g} % each, so that all of {wording} hold "
        "together with at least 95 % (Bonferroni). `=` means that the interval holds 0: the difference is "
        "not resolved by these seeds. Chance in the choice of the test images is not in it.",
    ]
    if comparison.cost_setting:
        setting = ", ".join(f"{name} {value}" for name, value in comparison.cost_setting.items())
        notes.append(
            f"step: a training step, x the baseline's; kept: activations for the backward pass. {setting}."
        )
    return [*notes, *comparison.notes]


def _lines(comparison: Comparison) -> list[list[str]]:
    return [_headings(comparison), *(_cells(comparison, row) for row in comparison.rows)]


def _headings(comparison: Comparison) -> list[str]:
    names = ["arm", "seeds", "mean", "sd", "lowest to highest", "difference", "95 % interval", "sign"]
    costs = ["params", "MMACs", "step ms", "x", "kept MB", "x"] if comparison.rows[0].costs else []
    return names + costs


def _cells(comparison: Comparison, row: Row) -> list[str]:
    mark = {"higher": "+", "lower": "-", "unresolved": "=", "": ""}[row.verdict]
    paired = row.pairs != len(row.seeds) and row.difference is not None
    cells = [
        row.label,
        f"{len(row.seeds)} ({row.pairs} paired)" if paired else str(len(row.seeds)),
        f"{100 * row.mean:.2f}",
        "" if row.spread is None else f"{100 * row.spread:.2f}",
        f"{100 * min(row.values):.2f} to {100 * max(row.values):.2f}",
        "" if row.difference is None else f"{100 * row.difference:+.2f}",
        "" if row.low is None or row.high is None else f"{100 * row.low:+.2f} to {100 * row.high:+.2f}",
        mark,
    ]
    base = comparison.rows[0].costs
    return cells + _cost_cells(base, row.costs) if base and row.costs else cells


def _cost_cells(base: Costs, own: Costs) -> list[str]:
    return [
        f"{own.params:,}",
        f"{own.macs / 1e6:.2f}",
        f"{own.step_ms:.1f}",
        f"{own.step_ms / base.step_ms:.2f}",
        f"{own.kept_bytes / 1e6:.1f}",
        f"{own.kept_bytes / base.kept_bytes:.2f}",
    ]


def _record(comparison: Comparison, row: Row) -> dict[str, object]:
    costs = row.costs
    return {
        "arm": row.label,
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "seeds": " ".join(map(str, row.seeds)),
        "values": " ".join(map(repr, row.values)),
        "mean": row.mean,
        "sd": row.spread,
        "pairs": row.pairs,
        "difference": row.difference,
        "low": row.low,
        "high": row.high,
        "confidence": comparison.confidence,
        "verdict": row.verdict,
        "params": costs and costs.params,
        "macs": costs and costs.macs,
        "step_ms": costs and costs.step_ms,
        "kept_bytes": costs and costs.kept_bytes,
    }
