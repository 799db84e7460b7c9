"""A comparison as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cbam_lightning.metrics.meaning import better_direction
from cbam_lightning.studies.compare.comparison import ArmResult, Comparison
from cbam_lightning.studies.compare.costs import Costs
from cbam_lightning.studies.compare.reading import Unit, judged
from cbam_lightning.tables import Table

_HEADINGS = ["arm", "seeds", "mean", "sd", "lowest to highest", "difference", "95 % interval", "sign"]
_MARKS = {"better": "+", "worse": "-", "higher": "+", "lower": "-", "unresolved": "=", "": ""}


def comparison_table(comparison: Comparison) -> Table:
    """Return a row for each arm, rounded: shares in percent and points. The records have the plain values."""
    results, unit = comparison.results, Unit.of(comparison)
    return Table(
        _HEADINGS + _cost_headings(results[0].costs),
        [_cells(comparison, result, unit) for result in results],
        notes=_notes(comparison),
        records=[_record(comparison, result) for result in results],
    )


def _notes(comparison: Comparison) -> list[str]:
    """Return how to read the table."""
    count, unit = len(comparison.results) - 1, Unit.of(comparison).name
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


def _cells(comparison: Comparison, result: ArmResult, unit: Unit) -> list[str]:
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
        _MARKS[judged(comparison, result)],
    ]
    return cells + _cost_cells(base, result.costs) if base and result.costs else cells


def _cost_headings(base: Costs | None) -> list[str]:
    if base is None:
        return []
    devices = [f"{device} " for device in base.step_ms] if len(base.step_ms) > 1 else [""]
    steps = [heading for device in devices for heading in (f"{device}step ms", "x")]
    return ["params", "MMACs", *steps, "saved MB", "x"]


def _cost_cells(base: Costs, own: Costs) -> list[str]:
    steps = [(f"{ms:.1f}", f"{ms / base.step_ms[device]:.2f}") for device, ms in own.step_ms.items()]
    return [
        f"{own.params:,}",
        f"{own.macs / 1e6:.2f}",
        *(cell for step in steps for cell in step),
        f"{own.saved_bytes / 1e6:.1f}",
        f"{own.saved_bytes / base.saved_bytes:.2f}",
    ]


def _cost_record(costs: Costs | None) -> dict[str, Any]:
    """Return the costs by name, such as ``step_ms_cpu``; without costs nothing."""
    values = asdict(costs) if costs else {}
    values.pop("network", None)  # the arm says it
    steps: Mapping[str, float] = values.pop("step_ms", {})
    return values | {f"step_ms_{device}": ms for device, ms in steps.items()}


def _record(comparison: Comparison, result: ArmResult) -> dict[str, Any]:
    values = asdict(result)
    values.pop("costs")
    return {
        "arm": values.pop("label"),
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        **values,
        "mean": result.mean,
        "sd": result.spread,
        "confidence": comparison.confidence,
        "verdict": result.verdict,
        **_cost_record(result.costs),
    }
