"""A comparison as figures: the runs with their differences, and the differences against their cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from cbam_lightning.studies.compare.comparison import ArmResult, Comparison
from cbam_lightning.studies.compare.reading import Unit, judged

_COLOURS = {"better": "tab:green", "worse": "tab:red", "higher": "tab:blue", "lower": "tab:orange"}
_INTERVALS = "simultaneous 95 % intervals"
_WIDE = 3.0  # costs that differ by more than this factor are drawn on a logarithmic axis
_LABEL_INCHES = 0.2  # between two labels


def draw(comparison: Comparison) -> Figure:
    """Draw every run as a dot with the mean of its arm, and beside it the difference with its interval."""
    results, unit = comparison.results, Unit.of(comparison)
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(results)), layout="constrained")
    values, differences = figure.subplots(1, 2, sharey=True)
    for place, result in enumerate(results):
        colour = _colour(comparison, result)
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
    differences.set_xlabel(f"difference from {comparison.baseline}{points}, {_INTERVALS}")
    for panel in (values, differences):
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def draw_costs(comparison: Comparison) -> Figure:
    """Draw the difference of each arm with its interval against its step time, a panel for each device.

    The labels stand at the right, from the largest difference to the smallest, so that arms of nearly the
    same cost stay readable.

    Args:
        comparison: With costs.
    """
    results = comparison.results
    devices = list(results[0].costs.step_ms) if results[0].costs else []
    height = 1.0 + max(3.5, _LABEL_INCHES * len(results))
    figure = Figure(figsize=(9, height * len(devices)), layout="constrained")
    panels = figure.subplots(len(devices), 1, squeeze=False)[:, 0]
    for panel, device in zip(panels, devices, strict=True):
        _draw_device(panel, comparison, device)
    return figure


def _draw_device(panel: Axes, comparison: Comparison, device: str) -> None:
    unit, base = Unit.of(comparison), comparison.results[0].costs
    shown = [(result, result.costs.step_ms[device]) for result in comparison.results if result.costs]
    points = []
    for result, ms in shown:
        across, up = ms / base.step_ms[device] if base else ms, unit.factor * (result.difference or 0.0)
        colour = "black" if result.difference is None else _colour(comparison, result)
        panel.plot(across, up, "o", color=colour, ms=5)
        if result.low is not None and result.high is not None:
            ends = [unit.factor * result.low, unit.factor * result.high]
            panel.plot([across, across], ends, color=colour, alpha=0.6, lw=1.2)
        points.append((up, across, result.label, colour))
    panel.axhline(0, color="black", lw=0.8)
    _scale(panel, [across for _, across, *_ in points])
    in_points = ", points" if unit.name else ""
    panel.set_ylabel(f"{comparison.metric}: difference from {comparison.baseline}{in_points},\n{_INTERVALS}")
    panel.set_xlabel(f"training step on {device}, times that of {comparison.baseline}")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    _label(panel, points)


def _scale(panel: Axes, times: Sequence[float]) -> None:
    if max(times) > _WIDE * min(times):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())


def _label(panel: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Name points at the right of a panel, in the order of their heights, each with a line to its point."""
    for place, (up, across, label, colour) in enumerate(sorted(points)):
        panel.annotate(
            label,
            (across, up),
            (1.04, (place + 0.5) / len(points)),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6, "relpos": (0, 0.5)},
        )


def _colour(comparison: Comparison, result: ArmResult) -> str:
    return _COLOURS.get(judged(comparison, result), "tab:gray")
