"""The comparison of Lightning's loop with a plain one. Nothing here depends on how fast the machine is."""

import pytest
import torch

from cbam_lightning.benchmarks import time_loop as benchmark
from cbam_lightning.benchmarks.options import LoopOptions
from cbam_lightning.benchmarks.time_loop import time_loop
from cbam_lightning.data import FashionMNIST
from cbam_lightning.errors import UsageError
from tests.tasks.small import classifier, differing, snapshot


def measure_loops(attention, **options):
    (report,) = time_loop(LoopOptions(attention=attention, **options))
    return report


def test_a_small_run_gives_the_rates_of_both_loops():
    report = measure_loops("cbam", batch_size=2, steps=2, repeats=2)
    assert report.title.startswith("resnet20 + cbam")
    assert report.groups().keys() == {"batch 2, 2 steps"}
    assert [row.candidate for row in report.rows] == ["plain loop", "fit"]
    assert all(len(row.values) == 2 and min(row.values) > 0 for row in report.rows)
    assert report.setting == {"repeats": 2}


def test_rates_are_images_by_seconds_and_the_ratio_is_of_the_medians(monkeypatch):
    seconds = {"_time_plain": [1.0, 2.0, 4.0], "_time_fit": [8.0, 2.5, 2.0]}
    order = []
    for name, values in seconds.items():

        def measure(model, data, steps, name=name, values=values):
            order.append((name, steps))
            return values[(len(order) - 1) // 2]

        monkeypatch.setattr(benchmark, name, measure)
    report = measure_loops("none", batch_size=100, steps=3, repeats=3)
    plain, fit = report.rows
    assert plain.values == [300, 150, 75]
    assert fit.values == [37.5, 120, 150]
    assert (report.unit, report.lower_is_better, report.baseline) == ("images/s", False, "plain loop")
    assert report.ratio(fit) == 0.8
    plain_first = [("_time_plain", 3), ("_time_fit", 3)]
    assert order == [*plain_first, *reversed(plain_first), *plain_first]


def test_both_loops_make_the_same_steps():
    """With the same seed they differ only in the order of the images and the warm-up of the rate."""
    data = FashionMNIST(batch_size=4)
    data.setup("fit")
    for measure in (benchmark._time_plain, benchmark._time_fit):
        model = classifier()
        before = snapshot(model.network)
        assert measure(model, data, 3) > 0
        after = model.network.state_dict()
        assert after["bn1.num_batches_tracked"] == 3 + benchmark._WARMUP_STEPS
        assert {"conv1.weight", "fc.bias"} <= differing(before, after)


def test_both_loops_start_from_the_same_weights(monkeypatch):
    starts = []

    def measure(model, data, steps):
        starts.append(snapshot(model))
        torch.rand(1)  # so that the second model differs unless it is seeded anew
        return 1.0

    monkeypatch.setattr(benchmark, "_time_plain", measure)
    monkeypatch.setattr(benchmark, "_time_fit", measure)
    measure_loops("se", batch_size=8, steps=1, repeats=2)
    assert len(starts) == 4
    assert not any(differing(starts[0], other) for other in starts[1:])


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="unknown attention 'cban'"):
        measure_loops("cban")
