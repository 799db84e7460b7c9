"""Arms paired by seed: mean, spread and difference, with an interval that says how sure the difference is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from cbam_lightning.callbacks.run_record import MAIN_FIGURES
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.studies.compare.arms import Arm, choose_arms
from cbam_lightning.studies.compare.costs import Costs

ERROR_RATE = 0.05


@dataclass(frozen=True)
class Row:
    """One arm beside the baseline.

    Attributes:
        label: The arm.
        seeds: Those of its runs.
        values: The metric of each run, in the order of ``seeds``.
        pairs: How many seeds the baseline has as well.
        difference: Mean over the pairs of arm minus baseline; ``None`` for the baseline itself.
        low: Lower end of the interval of the difference; ``None`` where fewer than two pairs give none.
        high: Upper end of the interval.
        costs: What the network costs, if that was measured.
    """

    label: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    pairs: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    costs: Costs | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, with N - 1; ``None`` for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def verdict(self) -> str:
        """``higher`` or ``lower`` if the interval leaves out 0, else ``unresolved``."""
        if self.low is None or self.high is None:
            return ""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "unresolved"


@dataclass(frozen=True)
class Comparison:
    """Every arm beside the baseline.

    Attributes:
        metric: What is compared, a fraction.
        baseline: Label of the arm that is subtracted.
        rows: The baseline first.
        confidence: Of each single interval: 0.95, raised so that all of them together hold with 95 %.
        cost_setting: How the costs were measured, for people.
        notes: What a reader should know besides, such as runs that were left out.
    """

    metric: str
    baseline: str
    rows: tuple[Row, ...]
    confidence: float
    cost_setting: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare(
    arms: Sequence[Arm],
    baseline: str,
    metric: str | None = None,
    costs: Mapping[str, Costs] | None = None,
) -> Comparison:
    """Compare arms with one of them, run by run of the same seed.

    The interval is that of the paired t-test (SciPy's ``ttest_rel``) at the level 1 - 0.05 / m for m
    comparisons with the baseline. By Bonferroni's inequality the probability that any of the m intervals
    misses its true difference is then at most 5 %, whatever the arms have in common. It speaks of seeds: the
    test images are the same for all arms.

    Args:
        arms: What ``group_arms`` returned.
        baseline: Label of the arm that the others are compared with.
        metric: Of the test, a fraction; left out, ``test/top1``, of detectors ``test/map``.
        costs: Of each arm, by its label.

    Raises:
        UsageError: There is no such arm, a run has no such metric, or an arm shares no seed with the
            baseline.
    """
    (base,) = choose_arms(arms, [baseline])
    metric = _checked(arms, metric)
    others = [arm for arm in arms if arm is not base]
    confidence = 1 - ERROR_RATE / len(others)
    known = costs or {}
    rows = [_row(base, metric, {}, known)]
    rows += [_row(arm, metric, _paired(arm, base, metric, confidence), known) for arm in others]
    return Comparison(metric, base.label, tuple(rows), confidence)


def _checked(arms: Sequence[Arm], metric: str | None) -> str:
    """Return a metric that all runs have."""
    runs = [run for arm in arms for run in arm.runs.values()]
    if metric is None:
        shared = [name for name in MAIN_FIGURES if all(name in run.metrics for run in runs)]
        metric = shared[0] if shared else MAIN_FIGURES[0]
    for run in runs:
        if metric not in run.metrics:
            raise unknown_name(kind=f"metric of {run.source}", given=metric, allowed=run.metrics)
    return metric


def _row(arm: Arm, metric: str, paired: Mapping[str, Any], costs: Mapping[str, Costs]) -> Row:
    seeds = tuple(arm.runs)
    return Row(arm.label, seeds, tuple(arm.values(metric, seeds)), **paired, costs=costs.get(arm.label))


def _paired(arm: Arm, base: Arm, metric: str, confidence: float) -> dict[str, Any]:
    seeds = [seed for seed in arm.runs if seed in base.runs]
    if not seeds:
        message = f"the arms {arm.label!r} and {base.label!r} have no seed in common; run both with the same."
        raise UsageError(message)
    ours, theirs = arm.values(metric, seeds), base.values(metric, seeds)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = {"pairs": len(seeds), "difference": statistics.fmean(differences)}
    if len(seeds) < 2:
        return found
    if max(differences) == min(differences):  # no spread: SciPy's interval is not a number
        return found | {"low": differences[0], "high": differences[0]}
    interval = stats.ttest_rel(ours, theirs).confidence_interval(confidence)
    return found | {"low": float(interval.low), "high": float(interval.high)}
