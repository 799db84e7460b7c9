"""Files of a report: a figure, and all values as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cbam_lightning.benchmarks.measurements import Measurement, Report
from cbam_lightning.files import check_unwritten

_COLUMNS = 4
_PANEL_INCHES = 3.6
_BAR_INCHES = 0.3


def save(report: Report, folder: str | Path) -> list[Path]:
    """Write ``<name>.json`` and ``<name>.png``, and return their paths.

    Raises:
        UsageError: One of the files exists; then neither is written.
        OSError: The folder or a file cannot be written.
    """
    values, figure = (Path(folder) / f"{report.name}.{extension}" for extension in ("json", "png"))
    check_unwritten(values, figure)
    values.parent.mkdir(parents=True, exist_ok=True)
    with values.open("x") as file:
        file.write(report.to_json() + "\n")
    draw(report).savefig(figure, dpi=150)
    return [values, figure]


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


def _draw_group(panel: Axes, report: Report, rows: list[Measurement], colours: Mapping[str, object]) -> None:
    positions = range(len(rows))
    below = [row.median - min(row.values) for row in rows]
    above = [max(row.values) - row.median for row in rows]
    bars = panel.barh(
        positions,
        [row.median for row in rows],
        xerr=[below, above] if any(below + above) else None,
        color=[colours[row.candidate] for row in rows],
        height=0.7,
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    panel.bar_label(bars, [_label(report, row) for row in rows], padding=4, fontsize=8)
    panel.set_yticks(positions, [row.candidate for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.45)  # room for the labels
    panel.set_xlim(left=0)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _label(report: Report, row: Measurement) -> str:
    whole = isinstance(row.median, int) or row.median >= 1000
    value = f"{row.median:,.0f}" if whole else f"{row.median:#.3g}".rstrip(".")
    return f"{value} ({report.ratio(row):.2f}x)" if report.baseline else value


def _heading(report: Report) -> str:
    ratio = f", ratio to {report.baseline}" if report.baseline else ""
    machine = report.machine
    where = f"{machine['processor']}, threads {machine['threads']}, torch {machine['torch']}"
    return f"{report.title}, {report.unit}{ratio} ({report.direction()})\n{where}"
