"""What a table says of a comparison: units, signs and what was left out."""

import math
from dataclasses import replace

import pytest

from cbam_lightning.studies.compare.arms import group_arms
from cbam_lightning.studies.compare.comparison import compare
from cbam_lightning.studies.compare.comparison_table import comparison_table
from cbam_lightning.studies.compare.costs import Costs
from tests.studies.compare.synthetic import run


def compared(metric, none, se):
    runs = [
        replace(run(name, seed, 0), metrics={metric: value})
        for name, values in (("none", none), ("se", se))
        for seed, value in enumerate(values)
    ]
    return compare(group_arms(runs), "none", metric)


def cells(comparison, row=1):
    """Return mean, difference and sign of an arm, and the notes."""
    table = comparison_table(comparison)
    return [table.rows[row][column] for column in (2, 5, 7)], " ".join(table.notes)


LOWER, HIGHER = (0.3, 0.31, 0.29), (0.5, 0.52, 0.49)


@pytest.mark.parametrize(
    ("metric", "se_is", "mean", "difference", "sign"),
    [
        ("test/top1", HIGHER, "50.33", "+20.33", "+"),
        ("test/top1", LOWER, "30.00", "-20.33", "-"),
        ("test/map_50", HIGHER, "50.33", "+20.33", "+"),
        ("test/MulticlassAccuracy", HIGHER, "50.33", "+20.33", "+"),
        ("test/loss", LOWER, "0.3000", "-0.2033", "+"),
        ("test/loss", HIGHER, "0.5033", "+0.2033", "-"),
        ("test/Brier", LOWER, "0.3000", "-0.2033", "-"),
    ],
)
def test_shares_are_in_percent_and_a_smaller_loss_is_better(metric, se_is, mean, difference, sign):
    none = HIGHER if se_is is LOWER else LOWER
    shown, notes = cells(compared(metric, none, se_is))
    assert shown == [mean, difference, sign]
    is_share = metric not in ("test/loss", "test/Brier")
    assert notes.startswith(f"{metric} in percent; differences in points," if is_share else f"{metric}; diff")
    known = {"test/loss": "`+` better, `-` worse: lower is", "test/Brier": "`+` higher, `-` lower."}
    assert known.get(metric, "`+` better, `-` worse: higher is better") in notes


@pytest.mark.parametrize(
    ("values", "mean"),
    [((2.5, 2.25), "2.375"), ((1234.5, 1235.5), "1235"), ((2e-5, 3e-5), "0.00002500"), ((0.0, 0.0), "0.000")],
)
def test_other_numbers_have_four_digits(values, mean):
    (shown, *_), _ = cells(compared("test/loss", values, values))
    assert shown == mean


def test_a_share_above_one_is_no_share():
    (mean, *_), notes = cells(compared("test/accuracy", (91.0, 92.0), (93.0, 94.5)))
    assert mean == "93.75"
    assert "percent" not in notes


def test_equal_differences_are_explained():
    shown, notes = cells(compared("test/top1", (0.5, 0.25), (0.5625, 0.3125)))
    assert shown == ["43.75", "+6.25", "="]
    assert "No interval for se: the difference is the same for every seed" in notes
    assert "No interval" not in cells(compared("test/top1", (0.5,), (0.5625,)))[1]


def test_a_run_that_is_left_out_is_named_below_the_table():
    _, notes = cells(compared("test/top1", (0.5, 0.25), (0.5625, math.nan)))
    assert notes.endswith("Left out: se/1: its test/top1 is nan.")


def test_records_have_the_plain_values():
    _, record = comparison_table(compared("test/loss", HIGHER, LOWER)).records
    assert (record["values"], record["verdict"]) == (LOWER, "lower")


def with_costs(*step_ms):
    """Return a comparison whose arms have step times on the same devices and other costs of 1 and 2."""
    costs = {
        name: Costs(1000 * (1 + place), 2_000_000, ms, 3_000_000 * (1 + place), {})
        for place, (name, ms) in enumerate(zip(("none", "se"), step_ms, strict=True))
    }
    arms = group_arms([run(name, seed, 0.9) for name in ("none", "se") for seed in (0, 1)])
    return compare(arms, "none", None, costs)


def test_costs_follow_relative_to_the_baseline():
    table = comparison_table(with_costs({"cpu": 20.0}, {"cpu": 25.04}))
    assert table.headings[8:] == ["params", "MMACs", "step ms", "x", "saved MB", "x"]
    assert table.rows[1][8:] == ["2,000", "2.00", "25.0", "1.25", "6.0", "2.00"]
    assert (table.records[1]["step_ms_cpu"], table.records[1]["saved_bytes"]) == (25.04, 6_000_000)
    assert "network" not in table.records[1]


def test_every_measured_device_has_its_columns():
    table = comparison_table(with_costs({"cpu": 20.0, "cuda": 4.0}, {"cpu": 25.0, "cuda": 12.0}))
    assert table.headings[10:14] == ["cpu step ms", "x", "cuda step ms", "x"]
    assert table.rows[1][10:14] == ["25.0", "1.25", "12.0", "3.00"]
    assert (table.records[1]["step_ms_cpu"], table.records[1]["step_ms_cuda"]) == (25.0, 12.0)


def test_without_costs_there_are_no_columns():
    table = comparison_table(compared("test/loss", HIGHER, LOWER))
    assert table.headings[-1] == "sign"
    assert not [name for name in table.records[0] if name.startswith(("step", "params"))]
