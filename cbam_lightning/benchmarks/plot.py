"""A report as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cbam_lightning.benchmarks.report import Report, Row

_COLUMNS = 4
_PANEL_INCHES = 3.6
_BAR_INCHES = 0.3


def draw(report: Report) -> Figure:
    """Draw a panel for each group: a bar for each median, a line from minimum to maximum, and the ratio."""
    groups = report.groups()
    candidates = list(dict.fromkeys(row.candidate for row in report.rows))
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(candidates)}
    columns = min(_COLUMNS, len(groups))
    panel_rows = -(-len(groups) // columns)
    height = panel_rows * (_BAR_INCHES * max(map(len, groups.values())) + 0.75) + 0.8
    figure = Figure(figsize=(max(7.0, _PANEL_INCHES * columns), height), layout="constrained")
    figure.suptitle(_heading(report), fontsize=11)
    panels = figure.subplots(panel_rows, columns, squeeze=False).flatten()
    for panel, (group, rows) in zip(panels, groups.items(), strict=False):
        _draw_group(panel, report, rows, colours)
        panel.set_title(group, fontsize=9, loc="left")
    for panel in panels[len(groups) :]:
        panel.axis("off")
    return figure


def _draw_group(panel: Axes, report: Report, rows: list[Row], colours: Mapping[str, object]) -> None:
    places = range(len(rows))
    medians = [row.median for row in rows]
    span = [
        [row.median - min(row.values) for row in rows],
        [max(row.values) - row.median for row in rows],
    ]
    panel.barh(places, medians, color=[colours[row.candidate] for row in rows], height=0.7)
    if any(len(row.values) > 1 for row in rows):
        panel.errorbar(medians, places, xerr=span, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    for place, row in zip(places, rows, strict=True):
        panel.annotate(
            _label(report, row),
            (max(row.values), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    panel.set_yticks(places, [row.candidate for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.45)  # room for the labels
    panel.set_xlim(left=0)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _label(report: Report, row: Row) -> str:
    whole = isinstance(row.median, int) or row.median >= 1000
    value = f"{row.median:,.0f}" if whole else f"{row.median:#.3g}".rstrip(".")
    return f"{value} ({report.ratio(row):.2f}x)" if report.baseline else value


def _heading(report: Report) -> str:
    ratio = f", ratio to {report.baseline}" if report.baseline else ""
    machine = report.machine
    where = f"{machine['processor']}, threads {machine['threads']}, torch {machine['torch']}"
    return f"{report.title}, {report.unit}{ratio} ({report.direction()})\n{where}"
