"""Arms paired by seed: mean, spread, and the difference with its confidence interval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy import stats

from cbam_lightning.callbacks.run_record import MAIN_FIGURES
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.studies.compare.arms import Arm, choose_arms
from cbam_lightning.studies.compare.costs import Costs

ERROR_RATE = 0.05
# Metrics are float32: rounding to the nearest moves a value by 2^-24 of it at most, so the differences of
# two pairs that are truly equal are 4 * 2^-24 apart at most (IEEE 754). This is twice as much.
_ROUNDING = 2.0**-21
_LARGEST = 3.4028235e38  # float32's
_NOTES_SHOWN = 3


@dataclass(frozen=True)
class ArmResult:
    """One arm beside the baseline.

    Attributes:
        label: Name of the arm.
        seeds: Seeds of its runs.
        values: The metric of each run, in the order of ``seeds``.
        pairs: Number of seeds that the baseline has as well.
        difference: Mean over the pairs of arm minus baseline; ``None`` for the baseline itself.
        low: Lower end of the interval of the difference; ``None`` with fewer than two pairs, or if the
            differences of all pairs are equal.
        high: Upper end of the interval.
        costs: Costs of the network, if measured.
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
        """``higher`` or ``lower`` if there is an interval and it excludes 0, else ``unresolved``."""
        if self.difference is None:
            return ""
        if self.low is None or self.high is None:
            return "unresolved"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "unresolved"


@dataclass(frozen=True)
class Comparison:
    """Every arm beside the baseline.

    Attributes:
        metric: The compared metric.
        baseline: Label of the arm that is subtracted.
        results: The baseline first.
        confidence: Level of each single interval: 0.95, raised so that all hold together with 95 %.
        cost_setting: How the costs were measured.
        notes: Further notes for the reader, such as runs that were left out.
    """

    metric: str
    baseline: str
    results: tuple[ArmResult, ...]
    confidence: float
    cost_setting: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare(
    arms: Sequence[Arm], baseline: str, metric: str | None = None, costs: Mapping[str, Costs] | None = None
) -> Comparison:
    """Compare arms with one of them, paired by seed.

    The interval is that of the paired t-test (SciPy's ``ttest_rel``) at the level 1 - 0.05 / m for m
    comparisons with the baseline. By Bonferroni's inequality, the probability that any of the m intervals
    misses its true difference is at most 5 %, even if the arms are correlated. It covers the choice of seeds,
    not of test images, which are the same for all arms. Differences that are all equal, up to rounding, do
    not tell how far those of other seeds would spread, and have no interval.

    Args:
        arms: What ``group_arms`` returned.
        baseline: Label of the arm that the others are compared with.
        metric: A metric of the test. Default: ``test/top1``, for detectors ``test/map``.
        costs: Costs of each arm, by its label.

    Returns:
        The comparison of the runs whose metric is a number; its notes name the others.

    Raises:
        UsageError: There is no such arm, no other one, a run has no such metric, or an arm shares no seed
            with the baseline.
    """
    choose_arms(arms, [baseline])
    metric = _checked(arms, metric)
    arms, left_out = _measured(arms, metric)
    base, others = _base_and_others(arms, baseline, metric, left_out)
    confidence = 1 - ERROR_RATE / len(others)
    results = []
    for arm in (base, *others):
        paired = {} if arm is base else _paired(arm, base, metric, confidence)
        values = tuple(arm.values(metric, arm.runs))
        cost = (costs or {}).get(arm.label)
        results.append(ArmResult(arm.label, tuple(arm.runs), values, **paired, costs=cost))
    return Comparison(metric, base.label, tuple(results), confidence, notes=left_out)


def _measured(arms: Sequence[Arm], metric: str) -> tuple[list[Arm], tuple[str, ...]]:
    """Return the arms with the runs whose metric is a number, and a note on each of the others."""
    kept, notes = [], []
    for arm in arms:
        runs = {seed: run for seed, run in arm.runs.items() if abs(run.metrics[metric]) <= _LARGEST}
        lost = [run for seed, run in arm.runs.items() if seed not in runs]
        notes += [f"Left out: {run.source}: its {metric} is {run.metrics[metric]}." for run in lost]
        kept += [replace(arm, runs=runs)] if runs else []
    return kept, tuple(notes)


def _checked(arms: Sequence[Arm], metric: str | None) -> str:
    """Return the metric, or the default one, if all runs have it."""
    runs = [run for arm in arms for run in arm.runs.values()]
    if metric is None:
        shared = (name for name in MAIN_FIGURES if all(name in run.metrics for run in runs))
        metric = next(shared, MAIN_FIGURES[0])
    for run in runs:
        if metric not in run.metrics:
            raise unknown_name(kind=f"metric of {run.source}", given=metric, allowed=run.metrics)
    return metric


def _base_and_others(
    arms: Sequence[Arm], baseline: str, metric: str, left_out: Sequence[str]
) -> tuple[Arm, list[Arm]]:
    base = next((arm for arm in arms if arm.label == baseline), None)
    others = [arm for arm in arms if arm is not base]
    if base is None or not others:
        known = " and ".join(repr(arm.label) for arm in arms) or "none"
        reasons = "".join(f" {note}" for note in left_out[:_NOTES_SHOWN])
        raise UsageError(
            f"a comparison needs the baseline {baseline!r} and another arm with numbers of {metric}, and of "
            f"these arms there is: {known}.{reasons}"
        )
    return base, others


def _paired(arm: Arm, base: Arm, metric: str, confidence: float) -> dict[str, Any]:
    seeds = [seed for seed in arm.runs if seed in base.runs]
    if not seeds:
        raise UsageError(
            f"the arms {arm.label!r} and {base.label!r} have no seed in common with numbers of {metric}; run "
            "both with the same seeds."
        )
    values, base_values = arm.values(metric, seeds), base.values(metric, seeds)
    differences = [a - b for a, b in zip(values, base_values, strict=True)]
    paired = {"pairs": len(seeds), "difference": statistics.fmean(differences)}
    rounding = _ROUNDING * max(map(abs, (*values, *base_values)))
    if max(differences) - min(differences) <= rounding:  # always so for a single pair
        return paired
    interval = stats.ttest_rel(values, base_values).confidence_interval(confidence)
    return paired | {"low": float(interval.low), "high": float(interval.high)}
