"""A comparison as a table and as a figure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from matplotlib.figure import Figure

from cbam_lightning.metrics.meaning import better_direction, is_share
from cbam_lightning.studies.compare.comparison import ArmResult, Comparison
from cbam_lightning.studies.compare.costs import Costs
from cbam_lightning.tables import Table

_HEADINGS = ["arm", "seeds", "mean", "sd", "lowest to highest", "difference", "95 % interval", "sign"]
_COST_HEADINGS = ["params", "MMACs", "step ms", "x", "saved MB", "x"]
_MARKS = {"better": "+", "worse": "-", "higher": "+", "lower": "-", "unresolved": "=", "": ""}
_COLOURS = {"better": "tab:green", "worse": "tab:red", "higher": "tab:blue", "lower": "tab:orange"}
_SIGNIFICANT = 4  # digits of the largest value of a metric that is not a share


def comparison_table(comparison: Comparison) -> Table:
    """Return a row for each arm, rounded: shares in percent and points. The records have the plain values."""
    results, unit = comparison.results, _Unit.of(comparison)
    return Table(
        _HEADINGS + (_COST_HEADINGS if results[0].costs else []),
        [_cells(comparison, result, unit) for result in results],
        notes=_notes(comparison),
        records=[_record(comparison, result) for result in results],
    )


def draw(comparison: Comparison) -> Figure:
    """Draw every run as a dot with the mean of its arm, and beside it the difference with its interval."""
    results, unit = comparison.results, _Unit.of(comparison)
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(results)), layout="constrained")
    values, differences = figure.subplots(1, 2, sharey=True)
    for place, result in enumerate(results):
        colour = _COLOURS.get(_judged(comparison, result), "tab:gray")
        dots = [unit.factor * value for value in result.values]
        values.plot(dots, [place] * len(dots), "o", color="tab:blue", alpha=0.45, ms=4)
        values.plot(unit.factor * result.mean, place, "|", color="black", ms=14, mew=2)
        if result.difference is not None:
            differences.plot(unit.factor * result.difference, place, "o", color=colour)
        if result.low is not None and result.high is not None:
            ends = [unit.factor * result.low, unit.factor * result.high]
            differences.plot(ends, [place, place], color=colour)
    differences.axvline(0, color="black", lw=0.8)
    values.set_yticks(range(len(results)), [result.label for result in results])
    values.invert_yaxis()
    values.set_xlabel(f"{comparison.metric}{unit.name}: each seed, and the mean")
    points = ", points" if unit.name else ""
    differences.set_xlabel(f"difference from {comparison.baseline}{points}, simultaneous 95 % intervals")
    for panel in (values, differences):
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


@dataclass(frozen=True)
class _Unit:
    """How the values of a metric are written.

    Attributes:
        factor: They are multiplied by it.
        decimals: Digits after the point.
        name: What follows the metric's name.
    """

    factor: int
    decimals: int
    name: str

    @classmethod
    def of(cls, comparison: Comparison) -> _Unit:
        values = [value for result in comparison.results for value in result.values]
        if is_share(comparison.metric) and min(values) >= 0 and max(values) <= 1:
            return cls(100, 2, " in percent")
        largest = max(map(abs, values)) or 1.0
        return cls(1, max(0, _SIGNIFICANT - 1 - math.floor(math.log10(largest))), "")

    def text(self, value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{self.factor * value:{sign}.{self.decimals}f}"


def _judged(comparison: Comparison, result: ArmResult) -> str:
    """Return the verdict: ``better`` or ``worse``, if it is known which values of the metric are better."""
    better = better_direction(comparison.metric)
    if not better or result.verdict not in ("higher", "lower"):
        return result.verdict
    return "better" if result.verdict == better else "worse"


def _notes(comparison: Comparison) -> list[str]:
    """Return how to read the table."""
    count, unit = len(comparison.results) - 1, _Unit.of(comparison).name
    points = " in points" if unit else ""
    together = f", so that all {count} hold together with at least 95 % (Bonferroni)" if count > 1 else ""
    better = better_direction(comparison.metric)
    signs = f"`+` better, `-` worse: {better} is better." if better else "`+` higher, `-` lower."
    notes = [
        f"{comparison.metric}{unit}; differences{points}, paired by seed with {comparison.baseline}. "
        f"Intervals: paired t-test, {100 * comparison.confidence:.4g} %{together}. "
        f"{signs} `=`: the interval contains 0, or there is none, so these seeds do not resolve the "
        "difference. The intervals do not include chance in the choice of the test images.",
    ]
    if equal := [result.label for result in comparison.results if result.pairs > 1 and result.low is None]:
        notes.append(
            f"No interval for {', '.join(equal)}: the difference is the same for every seed, which does not "
            "tell how far other seeds would spread."
        )
    if comparison.cost_setting:
        setting = ", ".join(f"{name} {value}" for name, value in comparison.cost_setting.items())
        notes.append(
            "step: a training step; saved: activations for the backward pass; x: relative to the baseline. "
            f"{setting}."
        )
    return [*notes, *comparison.notes]


def _cells(comparison: Comparison, result: ArmResult, unit: _Unit) -> list[str]:
    base = comparison.results[0].costs
    partly_paired = result.pairs != len(result.seeds) and result.difference is not None
    cells = [
        result.label,
        f"{len(result.seeds)} ({result.pairs} paired)" if partly_paired else str(len(result.seeds)),
        unit.text(result.mean),
        unit.text(result.spread),
        f"{unit.text(min(result.values))} to {unit.text(max(result.values))}",
        unit.text(result.difference, "+"),
        "" if result.low is None else f"{unit.text(result.low, '+')} to {unit.text(result.high, '+')}",
        _MARKS[_judged(comparison, result)],
    ]
    return cells + _cost_cells(base, result.costs) if base and result.costs else cells


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
