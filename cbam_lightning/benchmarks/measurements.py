"""Measurements, and reports that compare them within groups."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

from cbam_lightning.benchmarks.machine import this_machine


@dataclass(frozen=True)
class Measurement:
    """The measured values of one candidate in one group.

    Attributes:
        group: What was measured, such as a shape. Candidates are compared within a group.
        candidate: What it was measured with, such as an implementation.
        values: All values, in the unit of the report.
    """

    group: str
    candidate: str
    values: list[float]

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)


def collect(
    group: str, values: Mapping[str, Sequence[float]], convert: Callable[[float], float] | None = None
) -> list[Measurement]:
    """Return a measurement for each candidate of a group.

    Args:
        group: Name of the group.
        values: The values of each candidate.
        convert: Returns a value in the unit of the report. None: all values are in that unit.
    """
    return [
        Measurement(group, candidate, [convert(value) if convert else value for value in measured])
        for candidate, measured in values.items()
    ]


def milliseconds(seconds: float) -> float:
    """Return seconds in milliseconds."""
    return 1e3 * seconds


@dataclass(frozen=True)
class Report:
    """The measurements of one quantity.

    Attributes:
        name: Name of the files, without extension, such as ``attention_forward``.
        title: What was measured, for a reader.
        unit: Unit of all values.
        rows: In the order in which they are shown, a group at a time; every group has the baseline.
        baseline: The candidate that the others are divided by; None if ratios are meaningless.
        lower_is_better: True for times and bytes, False for rates.
        setting: Other choices, such as the dtype, in JSON types.
        machine: The machine and its software.
    """

    name: str
    title: str
    unit: str
    rows: list[Measurement]
    baseline: str | None
    lower_is_better: bool = True
    setting: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, str | int] = field(default_factory=this_machine)

    def groups(self) -> dict[str, list[Measurement]]:
        """Return the measurements of each group, in order."""
        return {group: list(rows) for group, rows in groupby(self.rows, lambda row: row.group)}

    def ratio(self, row: Measurement) -> float:
        """Return the median of a measurement divided by the median of its group's baseline."""
        (base,) = (r for r in self.rows if (r.group, r.candidate) == (row.group, self.baseline))
        return row.median / base.median

    def mean_ratios(self) -> dict[str, float]:
        """Return the geometric mean over the groups of each candidate's ratio.

        The quotient of two of them is the mean ratio of these candidates. Candidates that were not measured
        in every group are left out.
        """
        ratios = defaultdict[str, list[float]](list)
        for row in self.rows:
            ratios[row.candidate].append(self.ratio(row))
        return {
            candidate: math.prod(values) ** (1 / len(values))
            for candidate, values in ratios.items()
            if len(values) == len(self.groups())
        }

    def direction(self) -> str:
        """Return whether lower or higher values are better, in words."""
        return f"{'lower' if self.lower_is_better else 'higher'} is better"

    def to_json(self) -> str:
        """Return the report with all values as JSON."""
        return json.dumps(asdict(self), indent=2)
