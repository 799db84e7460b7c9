"""A report as text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from cbam_lightning.tables import WIDTH, Table

if TYPE_CHECKING:
    from cbam_lightning.benchmarks.measurements import Report

_DIGITS, _MOST_DECIMALS = 3, 4  # of the smallest median
_MEAN = "geometric mean over the groups"


def render(report: Report) -> str:
    """Return the median, the range and the ratio of every row, in a block for each group."""
    number = f",.{_decimals(report)}f"
    several = any(len(row.values) > 1 for row in report.rows)
    groups = [row.group for row in report.rows]
    rows: list[list[str]] = []
    for row in report.rows:
        ends = (min(row.values), max(row.values))
        spread = [format(end, number) if len(row.values) > 1 else "" for end in ends if several]
        ratio = f"{report.ratio(row):.2f}" if report.baseline else ""
        rows.append([row.candidate, format(row.median, number), *spread, ratio])
    if report.baseline and len(report.groups()) > 1:
        for name, mean in report.mean_ratios().items():
            groups.append(_MEAN)
            rows.append([name, *[""] * (len(rows[0]) - 2), f"{mean:.2f}"])
    columns = ["median", "min", "max"] if several else ["value"]
    headings = ["", *columns, f"x {report.baseline}" if report.baseline else ""]
    title = f"{report.title}, {report.unit}, {report.direction()}"
    return f"{title}\n{Table(headings, rows, groups=groups).terminal()}"


def render_conditions(report: Report) -> str:
    """Return the setting and the machine in lines of at most 110 characters."""
    facts = ", ".join(f"{name} {value}" for name, value in {**report.setting, **report.machine}.items())
    return textwrap.fill(facts, WIDTH)


def _decimals(report: Report) -> int:
    """Return one number of decimals for the whole table: none if all values are whole numbers."""
    if all(isinstance(value, int) for row in report.rows for value in row.values):
        return 0
    smallest = min((row.median for row in report.rows if row.median > 0), default=1)
    return min(_MOST_DECIMALS, max(0, _DIGITS - 1 - math.floor(math.log10(smallest))))
