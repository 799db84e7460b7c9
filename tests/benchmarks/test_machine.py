import json
import os
from datetime import date

import pytest
import torch

from cbam_lightning import __version__
from cbam_lightning.benchmarks.machine import choose_device, set_threads, this_machine
from cbam_lightning.errors import UsageError

CPU = torch.device("cpu")


def test_a_machine_says_what_the_numbers_depend_on():
    set_threads(1)
    machine = this_machine()
    assert machine["torch"] == torch.__version__
    assert machine["cbam_lightning"] == __version__
    assert machine["threads"] == 1
    assert 1 <= machine["cores"] <= os.cpu_count()
    assert machine["processor"]
    assert date.fromisoformat(machine["date"]) <= date.today()
    assert json.loads(json.dumps(machine)) == machine


def test_threads_are_those_of_torch():
    set_threads(2)
    assert torch.get_num_threads() == this_machine()["threads"] == 2
    set_threads(None)
    assert torch.get_num_threads() == 2
    with pytest.raises(UsageError, match="threads is 0"):
        set_threads(0)


def test_a_gpu_with_a_number_becomes_the_current_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [choose_device(name) for name in ("cuda", "cuda:1")] == [
        torch.device("cuda"),
        torch.device("cuda:1"),
    ]
    assert chosen == [torch.device("cuda:1")]  # torch refuses to make one without a number the current one
    with pytest.raises(UsageError, match=r"device is 'cuda:2'; usable here: cpu \(1\), cuda \(2\)"):
        choose_device("cuda:2")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device("cpu:0").type == "cpu"
    for name in ("cpu:1", "cpu:", "cpu:x", "gpu", "", "meta", "cuda:99"):
        with pytest.raises(UsageError, match=r"usable here: cpu"):
            choose_device(name)
