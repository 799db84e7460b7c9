"""The comparison of Lightning's loop with a plain one. Nothing here depends on how fast the machine is."""

import os
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer

from cbam_lightning.benchmarks import time_loop as benchmark
from cbam_lightning.benchmarks.options import LoopOptions
from cbam_lightning.benchmarks.time_loop import time_loop
from cbam_lightning.data import FashionMNIST
from cbam_lightning.errors import RunStopped, UsageError
from tests.tasks.small import classifier, differing, snapshot


def measure_loops(attention, **options):
    (report,) = time_loop(LoopOptions(attention=attention, **options))
    return report


def test_a_small_run_gives_the_rates_of_both_loops():
    options = {"batch_size": 2, "steps": 2, "repeats": 2, "precision": "bf16"}
    report = measure_loops("cbam", **options, memory_format=["channels_last"])
    assert report.title.startswith("resnet20 + cbam")
    assert report.groups().keys() == {"batch 2, 2 steps, channels_last"}
    assert [row.candidate for row in report.rows] == ["plain loop", "fit"]
    assert all(len(row.values) == 2 and min(row.values) > 0 for row in report.rows)
    assert report.setting == {"repeats": 2, "dtype": "bfloat16 autocast", "device": "cpu"}


def test_rates_are_images_by_seconds_and_the_ratio_is_of_the_medians(monkeypatch):
    seconds = {"_time_plain": [1.0, 2.0, 4.0], "_time_fit": [8.0, 2.5, 2.0]}
    order = []
    for name, values in seconds.items():

        def measure(model, data, options, device, name=name, values=values):
            order.append((name, options.steps))
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


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_both_loops_make_the_same_steps(precision):
    """With the same seed they differ only in the order of the images and the warm-up of the rate."""
    data = FashionMNIST(batch_size=4)
    data.setup("fit")
    options, seen = LoopOptions(steps=3, precision=precision), []

    def note(module, args, output):
        seen.append((output.dtype, output.is_contiguous(memory_format=torch.channels_last)))

    for measure in (benchmark._time_plain, benchmark._time_fit):
        model = classifier(channels_last=True)
        model.network.conv1.register_forward_hook(note)
        before = snapshot(model.network)
        assert measure(model, data, options, torch.device("cpu")) > 0
        after = model.network.state_dict()
        assert after["bn1.num_batches_tracked"] == 3 + benchmark._WARMUP_STEPS
        assert {"conv1.weight", "fc.bias"} <= differing(before, after)
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    assert seen == [(expected, True)] * 2 * (3 + benchmark._WARMUP_STEPS)


def test_the_clock_of_fit_runs_after_the_warm_up_and_not_while_an_epoch_is_saved(monkeypatch):
    """With two batches an epoch, the warm-up ends in the middle of the second of three epochs."""
    clock = SimpleNamespace(now=0.0)

    def advance(hook, seconds):
        def wait(*arguments):
            clock.now += seconds

        monkeypatch.setattr(benchmark.StepSeeds, hook, wait, raising=False)

    advance("on_train_epoch_start", 100)  # just after what saves
    advance("on_train_batch_end", 1)
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(benchmark, "Trainer", partial(Trainer, limit_train_batches=2))
    assert benchmark._WARMUP_STEPS == 3
    data, options = FashionMNIST(batch_size=4), LoopOptions(steps=3)
    assert benchmark._time_fit(classifier(), data, options, torch.device("cpu")) == 3


def test_every_loop_starts_from_the_same_weights_and_compiled_ones_are_a_group(monkeypatch):
    starts, compiled = [], []

    def measure(model, data, options, device):
        starts.append(snapshot(model))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        return 1.0

    monkeypatch.setattr(benchmark, "_time_plain", measure)
    monkeypatch.setattr(benchmark, "_time_fit", measure)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode, dynamic: compiled.append(mode))
    report = measure_loops("se", batch_size=8, steps=1, repeats=2, compile_mode=["default"])
    assert len(starts) == 8
    assert not any(differing(starts[0], other) for other in starts[1:])
    groups = [f"batch 8, 1 steps, channels_first{end}" for end in ("", ", compiled")]
    assert list(report.groups()) == groups
    assert compiled == ["default"]


def test_a_signal_ends_the_benchmark_and_offers_nothing_to_resume(monkeypatch):
    step = benchmark.Throughput.on_train_batch_end

    def send(self, trainer, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        step(self, trainer, *arguments)

    monkeypatch.setattr(benchmark.Throughput, "on_train_batch_end", send)
    with pytest.raises(RunStopped) as stopped:
        measure_loops("none", batch_size=2, steps=4, repeats=1)
    assert (str(stopped.value), stopped.value.exit_code) == ("", 128 + signal.SIGTERM)


def test_what_there_is_not_is_refused():
    with pytest.raises(UsageError, match="takes CUDA graphs, and the device is 'cpu'"):
        measure_loops("cbam", compile_mode=["reduce-overhead"])
    with pytest.raises(UsageError, match="unknown attention 'cban'"):
        measure_loops("cban")
