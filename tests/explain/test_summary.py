"""Means over images, their intervals, and paired differences between networks."""

import math
import random
import re

import pytest
import torch

from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.summary import Summary


def explained(probabilities, label=0, predicted=0, **figures):
    explanations = [Explanation(0, p, predicted, 0.9, torch.zeros(2, 2), **figures) for p in probabilities]
    image = torch.zeros(1, 4, 4, dtype=torch.uint8)
    return ExplainedImage("a", image, label, explanations=tuple(explanations))


def test_means_and_paired_differences():
    summary = Summary(["plain", "cbam"])
    for plain, cbam in [(0.2, 0.4), (0.5, 0.6), (0.8, 0.8)]:
        summary.add(explained([plain, cbam]))
    assert summary.estimates(0)["probability"].mean == pytest.approx(0.5)
    assert summary.estimates(1)["probability"].mean == pytest.approx(0.6)
    difference = summary.differences(1)["probability"]
    assert difference.mean == pytest.approx(0.1)
    assert (difference.low, difference.high) == (pytest.approx(0.0), pytest.approx(0.2))
    assert difference.images == 3


def test_interval_is_that_of_the_standard_error_and_stays_between_0_and_1():
    chance = random.Random(0)
    summary = Summary(["one"])
    values = [chance.random() for _ in range(400)]
    for value in values:
        summary.add(explained([value], predicted=int(value < 0.02)))
    found = summary.estimates(0)
    mean = sum(values) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 399 / 400)
    assert found["probability"].low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert found["probability"].high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)
    assert found["top1"].low < found["top1"].mean < found["top1"].high <= 1


def test_what_was_not_measured_is_left_out():
    summary = Summary(["one"])
    summary.add(explained([0.5], label=-1, inside=0.25))
    summary.add(explained([0.7], label=-1))
    found = summary.estimates(0)
    assert set(found) == {"probability", "inside"}
    assert (found["inside"].mean, found["inside"].images, found["inside"].low) == (0.25, 1, None)
    text = summary.table()
    assert "probability: mean probability of the explained class" in text
    assert "top1" not in text


def test_the_table_says_how_many_images_each_mean_is_over():
    summary = Summary(["plain", "cbam"])
    for inside in ((0.25, 0.5), (0.5, 0.75), (None, 0.5), (None, None)):
        explanations = [Explanation(0, 0.5, 0, 0.9, torch.zeros(2, 2), inside=one) for one in inside]
        image = torch.zeros(1, 4, 4, dtype=torch.uint8)
        summary.add(ExplainedImage("a", image, explanations=tuple(explanations)))
    lines = summary.table().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("inside: "))
    rows = [re.split("  +", line.strip()) for line in lines[start + 1 : start + 4]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("plain", "0.375", "2"),
        ("cbam", "0.583", "3"),
        ("cbam - plain", "+0.250", "2"),
    ]
    assert re.split("  +", lines[0].strip()) == ["network", "mean", "95 % interval", "images"]


def test_each_measure_ends_in_the_differences_from_the_first_network():
    summary = Summary(["plain", "cbam"])
    for plain, cbam in [(0.25, 0.5), (0.5, 0.875)]:
        summary.add(explained([plain, cbam]))
    *_, line = summary.table().splitlines()
    assert re.split("  +", line.strip()) == ["cbam - plain", "+0.312", "+0.250 to +0.375", "2"]


def test_equal_values_are_no_certainty():
    summary = Summary(["one", "two"])
    for _ in range(5):
        summary.add(explained([0.5, 0.75], label=-1))
    assert [summary.estimates(0)["probability"].low, summary.differences(1)["probability"].high] == [
        None,
        None,
    ]
    assert summary.differences(1)["probability"].mean == 0.25
