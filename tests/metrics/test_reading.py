"""Numbers on their way, on a device with an event that says when they have arrived."""

import torch

from cbam_lightning.metrics.reading import Reading
from tests.tasks.pretended_device import Arrival, pretended


def test_a_number_on_the_cpu_is_here_at_once():
    reading = Reading(torch.tensor(2.5, requires_grad=True))
    assert reading.is_here
    assert float(reading) == 2.5


def test_a_number_on_a_device_is_copied_without_waiting(monkeypatch):
    with pretended(monkeypatch) as waits:
        reading = Reading(torch.zeros((), device="cuda"))
        assert [reading.is_here, reading.is_here] == [False, True]
        assert isinstance(reading._arrival, Arrival)
        float(reading)
        assert waits.found == []
        float(torch.zeros((), device="cuda"))
        torch.zeros(3, device="cuda").cpu()
    assert waits.found == ["_local_scalar_dense", "_to_copy from cuda to cpu"]
