"""A clock that the tests move."""

import pytest

from cbam_lightning.benchmarks import clocks


class Clock:
    """A clock that stands still but for the work of its candidates."""

    def __init__(self):
        self.now = 0.0
        self.called = []

    def perf_counter(self):
        return self.now

    def candidate(self, name, seconds):
        def call():
            self.now += seconds
            self.called.append(name)

        return call


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(clocks.time, "perf_counter", clock.perf_counter)
    return clock
