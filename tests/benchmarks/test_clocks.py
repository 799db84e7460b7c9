"""Clocks, with a time that the tests move, so that every number is known."""

import gc

import pytest
import torch

from cbam_lightning.benchmarks import clocks
from cbam_lightning.benchmarks.clocks import event_clock, first_call_seconds, issue_clock, wall_clock


def test_the_first_call_is_not_warmed_up(clock):
    assert first_call_seconds(clock.candidate("a", 0.001)) == 0.001
    assert clock.called == ["a"]


def test_the_clock_waits_for_an_accelerator(clock, monkeypatch):
    work = clock.candidate("a", 0)

    def synchronize(device):
        clock.called.append(str(device))
        clock.now += 1

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    assert first_call_seconds(work, "cuda:1") == 1  # what was waited for after the call, not before
    assert clock.called == ["cuda:1", "a", "cuda:1"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests_only_while_the_clock_runs(enabled):
    seen = []
    (gc.enable if enabled else gc.disable)()
    try:
        assert first_call_seconds(lambda: seen.append(gc.isenabled())) >= 0
        assert seen == [False]
        assert gc.isenabled() == enabled
        with pytest.raises(ZeroDivisionError):
            first_call_seconds(lambda: 1 / 0)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


class Device:
    """A device that works on its own: a call of ``launch`` takes the CPU 1 s and the device 10 s."""

    def __init__(self, clock):
        self.clock, self.free_at = clock, 0.0

    def launch(self):
        self.clock.now += 1
        self.free_at = max(self.free_at, self.clock.now) + 10

    def synchronize(self, device):
        self.clock.now = max(self.clock.now, self.free_at)


@pytest.fixture
def device(clock, monkeypatch):
    device = Device(clock)
    monkeypatch.setattr(torch.accelerator, "synchronize", device.synchronize)
    monkeypatch.setattr(clocks, "SHORTEST_ON_DEVICE_S", 40)
    return device


def test_the_wall_clock_sees_several_steps_in_a_row(device):
    # one step takes 11 s, four take 41 s, since three are launched while another one runs
    assert wall_clock(device.launch, torch.device("cuda"))() == 41 / 4


def test_the_issue_clock_sees_what_launching_takes(device):
    assert issue_clock(device.launch, torch.device("cuda"))() == 1


@pytest.fixture
def events(clock, monkeypatch):
    """CUDA's events, of a device that is as fast as its CPU; returns what was done between them."""

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            clock.called.append("event")
            self.at = clock.now

        def elapsed_time(self, other):
            return 1e3 * (other.at - self.at)

    class Cache:
        def zero_(self):
            clock.called.append("flush")
            clock.now += 100

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: clock.called.append("wait"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: Cache())
    return clock.called


def test_the_event_clock_takes_the_median_between_events_with_empty_caches(clock, events):
    seconds = iter([2**-6] * 6 + [2**-6, 2**-8, 2**-4])

    def call():
        clock.now += next(seconds)
        clock.called.append("call")

    measure = event_clock(call, torch.device("cuda"))
    assert events == ["call"] * 5  # 60 ms have room for three
    events.clear()
    assert measure() == 2**-6
    assert events == ["call", *["flush", "event", "call", "event"] * 3, "wait"]


def test_without_cuda_the_event_clock_is_the_wall_clock(clock):
    assert event_clock(clock.candidate("a", 0.5), torch.device("cpu"))() == 0.5
