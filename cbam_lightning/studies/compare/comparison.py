"""Arms paired by seed: mean, spread, and the difference with its confidence interval."""

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
class ArmResult:
    """One arm beside the baseline.

    Attributes:
        label: Name of the arm.
        seeds: Seeds of its runs.
        values: The metric of each run, in the order of ``seeds``.
        pairs: Number of seeds that the baseline has as well.
        difference: Mean over the pairs of arm minus baseline; ``None`` for the baseline itself.
        low: Lower end of the interval of the difference; ``None`` with fewer than two pairs.
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
        """``higher`` or ``lower`` if the interval excludes 0, else ``unresolved``."""
        if self.low is None or self.high is None:
            return ""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "unresolved"


@dataclass(frozen=True)
class Comparison:
    """Every arm beside the baseline.

    Attributes:
        metric: The compared metric, a fraction.
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
    not of test images, which are the same for all arms.

    Args:
        arms: What ``group_arms`` returned.
        baseline: Label of the arm that the others are compared with.
        metric: A metric of the test, a fraction. Default: ``test/top1``, for detectors ``test/map``.
        costs: Costs of each arm, by its label.

    Raises:
        UsageError: There is no such arm, a run has no such metric, or an arm shares no seed with the
            baseline.
    """
    (base,) = choose_arms(arms, [baseline])
    metric = _checked(arms, metric)
    others = [arm for arm in arms if arm is not base]
    confidence = 1 - ERROR_RATE / len(others)
    results = []
    for arm in (base, *others):
        paired = {} if arm is base else _paired(arm, base, metric, confidence)
        values = tuple(arm.values(metric, arm.runs))
        cost = (costs or {}).get(arm.label)
        results.append(ArmResult(arm.label, tuple(arm.runs), values, **paired, costs=cost))
    return Comparison(metric, base.label, tuple(results), confidence)


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


def _paired(arm: Arm, base: Arm, metric: str, confidence: float) -> dict[str, Any]:
    seeds = [seed for seed in arm.runs if seed in base.runs]
    if not seeds:
        raise UsageError(
            f"the arms {arm.label!r} and {base.label!r} have no seed in common; run both with the same seeds."
        )
    values, base_values = arm.values(metric, seeds), base.values(metric, seeds)
    differences = [a - b for a, b in zip(values, base_values, strict=True)]
    paired = {"pairs": len(seeds), "difference": statistics.fmean(differences)}
    if len(seeds) < 2:
        return paired
    if max(differences) == min(differences):  # without spread SciPy's interval is NaN
        return paired | {"low": differences[0], "high": differences[0]}
    interval = stats.ttest_rel(values, base_values).confidence_interval(confidence)
    return paired | {"low": float(interval.low), "high": float(interval.high)}
