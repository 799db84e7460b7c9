"""What the networks of runs cost, detectors too."""

from dataclasses import replace

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.detection import create_detector
from cbam_lightning.studies.compare import costs as costs_module
from cbam_lightning.studies.compare.arms import group_arms
from cbam_lightning.studies.compare.costs import measure_costs
from tests.studies.compare.synthetic import run

CLASSIFIER = {"network": "resnet8", "network_options": {}, "num_classes": 10, "in_channels": 1, "size_px": 28}
DETECTOR = CLASSIFIER | {"network": "stairnet_resnet8", "size_px": 64, "network_options": {"size_px": 64}}


def arms(described):
    runs = [
        replace(run(name, 0, 0.9), network=described | {"attention": name, "attention_options": {}})
        for name in ("none", "cbam")
    ]
    return group_arms(runs)


def params(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_costs_of_classifiers_are_those_of_their_networks():
    costs = measure_costs(arms(CLASSIFIER), batch_size=2, repeats=1)
    for name, cost in costs.items():
        assert cost.params == params(create_model("resnet8", attention=name, num_classes=10, in_channels=1))
    assert costs["cbam"].macs > costs["none"].macs
    # the input of each of 7 convolutions of a plain block or the stem, at the least
    assert costs["none"].saved_bytes > 4 * 2 * (28 * 28 * (1 + 3 * 16) + 14 * 14 * 2 * 32)
    assert all(list(cost.step_ms) == ["cpu"] and cost.step_ms["cpu"] > 0 for cost in costs.values())


def test_costs_of_detectors_are_those_of_their_networks():
    costs = measure_costs(arms(DETECTOR), batch_size=2, repeats=1)
    for name, cost in costs.items():
        detector = create_detector(
            "stairnet_resnet8", attention=name, num_classes=11, in_channels=1, size_px=64
        )
        assert cost.params == params(detector)
        assert cost.step_ms["cpu"] > 0
    # four modules before the heads, of two linear layers and a 7x7 convolution each
    per_module = 2 * 64 * 4 + 4 + 64 + 2 * 49 + 2
    assert costs["cbam"].params - costs["none"].params == pytest.approx(4 * per_module)
    assert costs["cbam"].macs > costs["none"].macs
    assert costs["cbam"].saved_bytes > costs["none"].saved_bytes


def test_every_device_is_timed(monkeypatch):
    """Both names stand for the CPU here."""
    monkeypatch.setattr(costs_module, "choose_device", lambda name: torch.device("cpu"))
    measured = measure_costs(arms(CLASSIFIER), batch_size=2, repeats=1, devices=("cpu", "cuda"))
    for cost in measured.values():
        assert list(cost.step_ms) == ["cpu", "cuda"]
        assert len({*cost.step_ms.values()}) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"network": None},
        {"network": []},
        {"size_px": None},
        {"size_px": -1},
        {"num_classes": "10"},
        {"attention_options": None},
        {"in_channels": 1.5},
    ],
)
def test_a_network_that_is_not_described_is_told(changed):
    described = arms(CLASSIFIER)
    broken = [
        replace(arm, runs={0: replace(arm.runs[0], network=arm.runs[0].network | changed)})
        for arm in described
    ]
    with pytest.raises(UsageError, match=r"does not describe its network, .* --no-costs"):
        measure_costs(broken, batch_size=2, repeats=1)
