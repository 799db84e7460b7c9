"""Differences and their intervals: against literal formulas, and over many draws."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare.arms import group_arms
from cbam_lightning.studies.compare.comparison import compare
from tests.studies.compare.synthetic import run


def drawn(rng, effects, num_seeds=5, noise=0.002, shared=0.01):
    """Arms whose runs share what the seed does to all of them, and differ by a known effect and noise."""
    by_seed = rng.normal(0.9, shared, num_seeds)
    runs = [
        run(name, seed, by_seed[seed] + effect + rng.normal(0, noise))
        for name, effect in effects.items()
        for seed in range(num_seeds)
    ]
    return compare(group_arms(runs), "none")


def test_the_interval_is_that_of_the_paired_t_test_with_bonferronis_level():
    none, se, cbam = [0.90, 0.92, 0.91, 0.93], [0.91, 0.92, 0.93, 0.93], [0.89, 0.92, 0.90, 0.90]
    values = {"none": none, "se": se, "cbam": cbam}
    runs = [run(name, seed, v) for name, vs in values.items() for seed, v in enumerate(vs)]
    comparison = compare(group_arms(runs), "none")
    assert comparison.confidence == 0.975
    base, *others = comparison.results
    assert (base.label, base.difference, base.verdict) == ("none", None, "")
    assert base.mean == pytest.approx(0.915)
    assert base.spread == pytest.approx(statistics.stdev(none))
    for row, arm in zip(others, (se, cbam), strict=True):
        differences = np.array(arm) - np.array(none)
        half = stats.t.ppf(1 - 0.025 / 2, df=3) * differences.std(ddof=1) / math.sqrt(4)
        assert row.difference == pytest.approx(differences.mean())
        assert (row.low, row.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
        assert row.pairs == 4


@pytest.mark.parametrize("num_arms", [2, 4])
def test_where_there_is_no_effect_one_is_found_in_at_most_five_percent(num_arms):
    rng, draws = np.random.default_rng(0), 1500
    effects = dict.fromkeys(["none", "se", "cbam", "bam"][:num_arms], 0.0)
    wrong = sum(
        any(row.verdict in ("higher", "lower") for row in drawn(rng, effects).results) for _ in range(draws)
    )
    error = math.sqrt(0.05 * 0.95 / draws)
    assert wrong / draws < 0.05 + 3 * error
    if num_arms == 2:  # a single comparison keeps the rate exactly; several stay below it
        assert wrong / draws > 0.05 - 3 * error


def test_a_known_effect_is_found_and_its_interval_covers_it():
    rng, draws = np.random.default_rng(1), 500
    found, covered = 0, 0
    for _ in range(draws):
        _, se, cbam = drawn(rng, {"none": 0.0, "se": 0.02, "cbam": -0.02}).results
        found += (se.verdict, cbam.verdict) == ("higher", "lower")
        covered += se.low <= 0.02 <= se.high and cbam.low <= -0.02 <= cbam.high
    assert found / draws > 0.95
    assert covered / draws > 0.95 - 3 * math.sqrt(0.05 * 0.95 / draws)


def test_pairing_sees_what_lies_far_below_the_spread_of_seeds():
    comparison = drawn(np.random.default_rng(2), {"none": 0.0, "se": 0.005}, noise=0.0005, shared=0.05)
    base, se = comparison.results
    assert base.spread > 5 * 0.005
    assert se.verdict == "higher"


def test_only_common_seeds_are_paired():
    runs = [run("none", s, 0.9 + s / 100) for s in (0, 1, 2)] + [run("se", s, 0.95) for s in (1, 2, 3)]
    _, se = compare(group_arms(runs), "none").results
    assert (se.seeds, se.pairs) == ((1, 2, 3), 2)
    assert se.difference == pytest.approx(0.95 - 0.915)


def pairs(*pairs_of_values, metric="test/top1"):
    """Compare two arms whose runs have these values, a pair for each seed."""
    runs = [
        replace(run(name, seed, 0), metrics={metric: value})
        for seed, pair in enumerate(pairs_of_values)
        for name, value in zip(("none", "se"), pair, strict=True)
    ]
    return compare(group_arms(runs), "none", metric)


def float32(value):
    return float(np.float32(value))


@pytest.mark.parametrize(
    "values",
    [
        [(0.9, 0.95)],  # one pair
        [(0.5, 0.5625), (0.25, 0.3125)],
        [(0.8, 0.85), (0.81, 0.86), (0.7, 0.75)],  # equal up to rounding
        [(float32(0.7431), float32(0.8056)), (float32(0.1234), float32(0.1859))],
        [(2.5, 2.5)] * 5,
        [(0.0, 0.0)] * 3,
        [(0.0, 1.0), (0.0, 1.0)],
    ],
)
def test_equal_differences_have_no_interval_and_resolve_nothing(values):
    """Two equal numbers do not tell how far a third one may be."""
    _, se = pairs(*values).results
    assert (se.low, se.high, se.verdict) == (None, None, "unresolved")
    assert se.difference == pytest.approx(values[0][1] - values[0][0])
    assert se.pairs == len(values)


def test_differences_that_differ_by_one_image_in_fifty_thousand_have_an_interval():
    first, second = 0.01, 0.01 + 1 / 50_000
    _, se = pairs((0.75, 0.75 + first), (0.76, 0.76 + second)).results
    half = stats.t.ppf(0.975, df=1) * abs(second - first) / 2
    assert (se.low, se.high) == pytest.approx((0.01001 - half, 0.01001 + half))
    assert se.verdict == "higher"


def test_an_arm_of_one_value_is_compared_like_any_other():
    _, se = pairs((0.5, 0.6), (0.5, 0.7), (0.5, 0.65)).results
    assert (se.low, se.high) == pytest.approx(
        tuple(stats.ttest_1samp([0.1, 0.2, 0.15], 0).confidence_interval(0.95))
    )


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf, 1e308])
def test_a_run_without_a_number_is_left_out_and_named(lost):
    comparison = pairs((2.0, 1.5), (2.0, lost), (2.25, 1.5), metric="test/loss")
    base, se = comparison.results
    assert (base.seeds, se.seeds, se.pairs, se.difference) == ((0, 1, 2), (0, 2), 2, -0.625)
    assert comparison.notes == (f"Left out: se/1: its test/loss is {lost}.",)


@pytest.mark.parametrize("numbers", [(math.nan, 0.5), (0.5, math.nan), (math.nan, math.nan)])
def test_an_arm_without_any_number_is_no_comparison(numbers):
    with pytest.raises(UsageError, match=r"needs the baseline 'none' and another .* its test/top1 is nan\."):
        pairs(numbers)


def test_numbers_of_different_seeds_are_told():
    with pytest.raises(UsageError, match="no seed in common with numbers of test/top1"):
        pairs((math.nan, 0.5), (0.5, math.nan))


def test_the_baseline_alone_is_no_comparison():
    (base, _) = group_arms([run("none", 0, 0.9), run("se", 0, 0.95)])
    with pytest.raises(UsageError, match=r"another arm with numbers of test/top1, .* there is: 'none'"):
        compare([base], "none")


def test_detectors_are_compared_by_average_precision():
    scores = {("none", 0): 0.4, ("none", 1): 0.5, ("se", 0): 0.45, ("se", 1): 0.6}
    runs = [
        replace(run(name, seed, 0), metrics={"test/map_50": 0.9, "test/map": score})
        for (name, seed), score in scores.items()
    ]
    comparison = compare(group_arms(runs), "none")
    assert comparison.metric == "test/map"
    assert [row.values for row in comparison.results] == [(0.4, 0.5), (0.45, 0.6)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baseline": "nne"}, "Did you mean 'none'"),
        ({"baseline": "none", "metric": "test/top5"}, "unknown metric of none/0 'test/top5'"),
    ],
)
def test_mistakes_are_told(options, words):
    with pytest.raises(UsageError, match=words):
        compare(group_arms([run("none", 0, 0.9), run("se", 0, 0.95)]), **options)


def test_arms_without_a_common_seed_are_refused():
    with pytest.raises(UsageError, match="no seed in common"):
        compare(group_arms([run("none", 0, 0.9), run("se", 1, 0.95)]), "none")
