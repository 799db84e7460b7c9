"""What a GPU adds, with a profile's real events and a memory that counts as CUDA's does."""

from functools import partial

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from cbam_lightning.benchmarks import device_figures as module
from cbam_lightning.benchmarks.device_figures import DEVICE_FIGURES, device_figures, peak_bytes, sum_kernels

CUDA = torch.device("cuda")


def event(name, start_us, end_us, device_type=DeviceType.CUDA, annotation=False):
    return FunctionEvent(
        *(0, name, 1, start_us, end_us),
        device_type=device_type,
        use_device="cuda",
        is_user_annotation=annotation,
    )


def test_kernels_and_copies_count_once_and_named_ranges_not():
    events = [
        event("gemm", 10, 40),
        event("Memcpy HtoD", 50, 55),
        event("gemm", 60, 75),
        event("Optimizer.step#SGD.step", 5, 80, annotation=True),
        event("aten::mm", 0, 90, DeviceType.CPU),
    ]
    seconds, count = sum_kernels(events)
    assert seconds == pytest.approx(50e-6)
    assert count == 3


def test_a_profile_without_a_gpu_has_no_kernels():
    x = torch.randn(4, 4)
    assert module.profile_kernels(lambda: x @ x, torch.device("cpu")) == (0, 0)


class Memory:
    """Counts as ``torch.cuda`` does: what is taken, and the peak since it was reset."""

    def __init__(self, monkeypatch):
        self.taken = self.peak = 700
        for name in ("memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)

    def memory_allocated(self, device):
        return self.taken

    def reset_peak_memory_stats(self, device):
        self.peak = self.taken

    def max_memory_allocated(self, device):
        return self.peak

    def take(self, size):
        self.taken += size
        self.peak = max(self.peak, self.taken)


def test_the_peak_is_what_a_step_takes_beyond_what_stays(monkeypatch):
    memory = Memory(monkeypatch)
    memory.take(5000)
    memory.take(-5000)

    def step():
        memory.take(300)
        memory.take(-100)
        memory.take(40)
        memory.take(-240)

    assert peak_bytes(step, CUDA) == 300


def test_every_figure_of_every_candidate(monkeypatch):
    memory = Memory(monkeypatch)
    monkeypatch.setattr(module, "profile_kernels", lambda step, device: (step() or 0.25, 7))
    monkeypatch.setattr(module, "issue_clock", lambda step, device: lambda: 0.5)

    def step(size):
        memory.take(size)
        memory.take(-size)

    steps = {"a": partial(step, 8), "b": partial(step, 9)}
    found = device_figures("8x4", steps, CUDA, 3)
    assert list(found) == list(DEVICE_FIGURES)
    values = {kind: {row.candidate: row.values for row in rows} for kind, rows in found.items()}
    assert values == {
        "issue": {"a": [500.0] * 3, "b": [500.0] * 3},
        "busy": {"a": [250.0], "b": [250.0]},
        "kernels": {"a": [7], "b": [7]},
        "peak_memory": {"a": [8], "b": [9]},
    }
    # CUDA graphs take their memory once, when they are recorded
    assert device_figures("8x4", steps, CUDA, 1, with_graphs=True)["peak_memory"] == []


def test_a_cpu_has_none_of_them():
    assert device_figures("8x4", {"a": lambda: None}, torch.device("cpu"), 3) == {}
