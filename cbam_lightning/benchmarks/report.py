"""What was measured, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cbam_lightning.benchmarks.machine import this_machine
from cbam_lightning.files import check_unwritten


@dataclass(frozen=True)
class Row:
    """What one candidate gave in one group.

    Attributes:
        group: What was measured, such as a shape. Candidates are compared within a group.
        candidate: What it was measured with.
        values: Every measurement, in the unit of the report.
    """

    group: str
    candidate: str
    values: list[float]

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Report:
    """The measurements of one quantity.

    Attributes:
        name: Of the files, without ending, such as ``attention_forward``.
        title: What was measured, for a reader.
        unit: Of every value.
        rows: In the order in which they are shown; every group has the baseline.
        baseline: The candidate that the others are divided by; None where a ratio says nothing.
        lower_is_better: True for times and bytes, False for rates.
        setting: What else was chosen, such as the dtype, in values that JSON has.
        machine: What it was measured on.
    """

    name: str
    title: str
    unit: str
    rows: list[Row]
    baseline: str | None
    lower_is_better: bool = True
    setting: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, str | int] = field(default_factory=this_machine)

    def groups(self) -> dict[str, list[Row]]:
        """Return the rows of each group, all in their order."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    def ratio(self, row: Row) -> float:
        """Return the median of a row, divided by the median of its group's baseline."""
        (base,) = (r for r in self.rows if (r.group, r.candidate) == (row.group, self.baseline))
        return row.median / base.median

    def mean_ratios(self) -> dict[str, float]:
        """Return the geometric mean over the groups of each candidate's ratio.

        The quotient of two of them is the mean ratio of the one candidate to the other. A candidate that was
        not measured in every group is left out.
        """
        groups = self.groups()
        ratios: dict[str, list[float]] = {}
        for row in self.rows:
            ratios.setdefault(row.candidate, []).append(self.ratio(row))
        return {
            candidate: math.prod(values) ** (1 / len(values))
            for candidate, values in ratios.items()
            if len(values) == len(groups)
        }

    def direction(self) -> str:
        """Say whether lower or higher values are better."""
        return f"{'lower' if self.lower_is_better else 'higher'} is better"

    def table(self) -> str:
        """Return the medians, the ranges and the ratios, at most 110 characters wide."""
        from cbam_lightning.benchmarks.table import render

        return render(self)

    def conditions(self) -> str:
        """Return what was chosen, and the machine, in lines of at most 110 characters."""
        from cbam_lightning.benchmarks.table import render_conditions

        return render_conditions(self)

    def to_json(self) -> str:
        """Return everything, every single value with it, as JSON."""
        return json.dumps(asdict(self), indent=2)

    def plot(self, path: str | Path) -> None:
        """Draw a bar for each median with its range, a panel for each group.

        Args:
            path: A new file, whose ending says the format.

        Raises:
            UsageError: There already is such a file.
            OSError: The file cannot be written.
        """
        from cbam_lightning.benchmarks.plot import draw

        check_unwritten(Path(path))
        draw(self).savefig(path, dpi=150)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``<name>.json`` and ``<name>.png``, and return their paths.

        Raises:
            UsageError: One of them is already there; then neither is written.
            OSError: The folder or a file cannot be written.
        """
        text, picture = (Path(folder) / f"{self.name}.{ending}" for ending in ("json", "png"))
        check_unwritten(text, picture)
        text.parent.mkdir(parents=True, exist_ok=True)
        with text.open("x") as file:
            file.write(self.to_json() + "\n")
        self.plot(picture)
        return [text, picture]
