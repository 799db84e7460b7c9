"""How the numbers of a comparison read: their unit, and whether a difference is an improvement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cbam_lightning.metrics.meaning import better_direction, is_share
from cbam_lightning.studies.compare.comparison import ArmResult, Comparison

_SIGNIFICANT = 4  # digits of the largest value of a metric that is not a share


@dataclass(frozen=True)
class Unit:
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
    def of(cls, comparison: Comparison) -> Unit:
        """Return percent for shares, and four digits of the largest value for other metrics."""
        values = [value for result in comparison.results for value in result.values]
        if is_share(comparison.metric) and min(values) >= 0 and max(values) <= 1:
            return cls(100, 2, " in percent")
        largest = max(map(abs, values)) or 1.0
        return cls(1, max(0, _SIGNIFICANT - 1 - math.floor(math.log10(largest))), "")

    def text(self, value: float | None, sign: str = "") -> str:
        """Return a value in this unit; nothing for ``None``."""
        return "" if value is None else f"{self.factor * value:{sign}.{self.decimals}f}"


def judged(comparison: Comparison, result: ArmResult) -> str:
    """Return the verdict: ``better`` or ``worse``, if it is known which values of the metric are better."""
    better = better_direction(comparison.metric)
    if not better or result.verdict not in ("higher", "lower"):
        return result.verdict
    return "better" if result.verdict == better else "worse"
