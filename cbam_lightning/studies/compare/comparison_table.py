"""A comparison as a table and as a figure."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from matplotlib.figure import Figure

from cbam_lightning.studies.compare.comparison import ArmResult, Comparison
from cbam_lightning.studies.compare.costs import Costs
from cbam_lightning.tables import Table

_HEADINGS = ["arm", "seeds", "mean", "sd", "lowest to highest", "difference", "95 % interval", "sign"]
_COST_HEADINGS = ["params", "MMACs", "step ms", "x", "saved MB", "x"]
_MARKS = {"higher": "+", "lower": "-", "unresolved": "=", "": ""}
_COLOURS = {"higher": "tab:green", "lower": "tab:red", "unresolved": "tab:gray", "": "tab:gray"}


def comparison_table(comparison: Comparison) -> Table:
    """Return a row for each arm: percent and points rounded, the records as fractions."""
    results = comparison.results
    return Table(
        _HEADINGS + (_COST_HEADINGS if results[0].costs else []),
        [_cells(result, results[0].costs) for result in results],
        notes=_notes(comparison),
        records=[_record(comparison, result) for result in results],
    )


def draw(comparison: Comparison) -> Figure:
    """Draw every run as a dot with the mean of its arm, and beside it the difference with its interval."""
    results = comparison.results
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(results)), layout="constrained")
    values, differences = figure.subplots(1, 2, sharey=True)
    for place, result in enumerate(results):
        colour = _COLOURS[result.verdict]
        values.plot(result.values, [place] * len(result.values), "o", color="tab:blue", alpha=0.45, ms=4)
        values.plot(result.mean, place, "|", color="black", ms=14, mew=2)
        if result.difference is not None:
            differences.plot(100 * result.difference, place, "o", color=colour)
        if result.low is not None and result.high is not None:
            differences.plot([100 * result.low, 100 * result.high], [place, place], color=colour)
    differences.axvline(0, color="black", lw=0.8)
    values.set_yticks(range(len(results)), [result.label for result in results])
    values.invert_yaxis()
    values.set_xlabel(f"{comparison.metric}: each seed, and the mean")
    differences.set_xlabel(f"difference from {comparison.baseline}, points, simultaneous 95 % intervals")
    for panel in (values, differences):
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _notes(comparison: Comparison) -> list[str]:
    """Return how to read the table."""
    count = len(comparison.results) - 1
    together = f", so that all {count} hold together with at least 95 % (Bonferroni)" if count > 1 else ""
    notes = [
        f"{comparison.metric} in percent; differences in points, paired by seed with {comparison.baseline}. "
        f"Intervals: paired t-test, {100 * comparison.confidence:.4g} %{together}. `=`: the interval "
        "contains 0, so these seeds do not resolve the difference. The intervals do not include chance in "
        "the choice of the test images.",
    ]
    if comparison.cost_setting:
        setting = ", ".join(f"{name} {value}" for name, value in comparison.cost_setting.items())
        notes.append(
            "step: a training step; saved: activations for the backward pass; x: relative to the baseline. "
            f"{setting}."
        )
    return [*notes, *comparison.notes]


def _cells(result: ArmResult, base: Costs | None) -> list[str]:
    partly_paired = result.pairs != len(result.seeds) and result.difference is not None
    cells = [
        result.label,
        f"{len(result.seeds)} ({result.pairs} paired)" if partly_paired else str(len(result.seeds)),
        _percent(result.mean),
        _percent(result.spread),
        f"{_percent(min(result.values))} to {_percent(max(result.values))}",
        _percent(result.difference, "+"),
        "" if result.low is None else f"{_percent(result.low, '+')} to {_percent(result.high, '+')}",
        _MARKS[result.verdict],
    ]
    return cells + _cost_cells(base, result.costs) if base and result.costs else cells


def _percent(fraction: float | None, sign: str = "") -> str:
    return "" if fraction is None else f"{100 * fraction:{sign}.2f}"


def _cost_cells(base: Costs, own: Costs) -> list[str]:
    return [
        f"{own.params:,}",
        f"{own.macs / 1e6:.2f}",
        f"{own.step_ms:.1f}",
        f"{own.step_ms / base.step_ms:.2f}",
        f"{own.saved_bytes / 1e6:.1f}",
        f"{own.saved_bytes / base.saved_bytes:.2f}",
    ]


def _record(comparison: Comparison, result: ArmResult) -> dict[str, Any]:
    values = asdict(result)
    costs = values.pop("costs") or dict.fromkeys(field.name for field in fields(Costs))
    return {
        "arm": values.pop("label"),
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        **values,
        "mean": result.mean,
        "sd": result.spread,
        "confidence": comparison.confidence,
        "verdict": result.verdict,
        **costs,
    }
