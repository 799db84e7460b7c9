"""A report as text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cbam_lightning.benchmarks.measurements import Measurement, Report

_WIDTH = 110  # characters
_DIGITS, _MOST_DECIMALS = 3, 4  # that the smallest median keeps


def render(report: Report) -> str:
    """Return a table with a block for each group, at most 110 characters wide unless names are longer."""
    numbers = _Numbers(report)
    name_width = max(len(row.candidate) for row in report.rows) + 2
    lines = [f"{report.title}, {report.unit}, {report.direction()}"]
    lines.append(_headings(report, name_width))
    for group, rows in report.groups().items():
        lines.append(group)
        for row in rows:
            ratio = f"{report.ratio(row):.2f}" if report.baseline else ""
            low, high = numbers.text(min(row.values)), numbers.text(max(row.values))
            if len(row.values) == 1:
                low = high = ""
            cells = _cells(numbers.text(row.median), low, high, ratio)
            lines.append(f"  {row.candidate:{name_width - 2}}{cells}".rstrip())
    lines += _mean_lines(report, name_width)
    return "\n".join(lines)


def render_conditions(report: Report) -> str:
    """Return the setting and the machine in lines of at most 110 characters."""
    facts = ", ".join(f"{name} {value}" for name, value in {**report.setting, **report.machine}.items())
    return textwrap.fill(facts, _WIDTH)


def _cells(median: str, low: str, high: str, ratio: str) -> str:
    return f"{median:>15}{low:>15}{high:>15}{ratio:>20}"


def _headings(report: Report, name_width: int) -> str:
    several = any(len(row.values) > 1 for row in report.rows)
    median, low, high = ("median", "min", "max") if several else ("value", "", "")
    ratio = f"x {report.baseline}" if report.baseline else ""
    return f"{'':{name_width}}{_cells(median, low, high, ratio)}".rstrip()


def _mean_lines(report: Report, name_width: int) -> list[str]:
    if report.baseline is None or len(report.groups()) == 1:
        return []
    means = report.mean_ratios().items()
    rows = [f"  {name:{name_width - 2}}{_cells('', '', '', f'{mean:.2f}')}" for name, mean in means]
    return ["geometric mean over the groups", *rows]


class _Numbers:
    """One number of decimals for a whole table, so that its columns line up."""

    def __init__(self, report: Report) -> None:
        self.whole = all(isinstance(value, int) for row in report.rows for value in row.values)
        self.decimals = _decimals(report.rows)

    def text(self, value: float) -> str:
        return f"{value:,.{0 if self.whole else self.decimals}f}"


def _decimals(rows: list[Measurement]) -> int:
    smallest = min((row.median for row in rows if row.median > 0), default=1)
    return min(_MOST_DECIMALS, max(0, _DIGITS - 1 - math.floor(math.log10(smallest))))
