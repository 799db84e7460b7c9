"""A header of a few bytes cannot make a machine build a network that no file of its size holds."""

import resource
from dataclasses import replace

import pytest
import torch
from torch import nn

from cbam_lightning import create_model, register_model
from cbam_lightning.errors import UsageError
from cbam_lightning.models import registry
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.factory import build_network, rebuild
from cbam_lightning.weights import Checkpoint, Header, save_checkpoint

HEADER = Header("resnet20", "cbam", num_classes=10, in_channels=3)
# More than every number below, so that the network itself has to be looked at.
VALUES = {"weight": torch.zeros(1).expand(2_000_000)}
TOO_LARGE = {
    "widths": {"network_options": {"widths": [10**6] * 3}},
    "one width": {"network_options": {"widths": [16, 32, 10**6]}},
    "stem_width": {"network_options": {"stem_width": 10**6}},
    "a product that overflows": {"network_options": {"widths": [10**18] * 3}},
    "a number that overflows": {"num_classes": 2**62, "class_names": None},
    "depths": {"network_options": {"depths": [100_000] * 3}},
    "num_classes": {"num_classes": 10**6, "class_names": None},
    "in_channels": {"in_channels": 10**7},
    "kernel_size": {"attention_options": {"kernel_size": 10**6 + 1}},
    "max_size": {
        "network": "resnet50",
        "attention": "mhsa",
        "attention_options": {"max_size": 10**6, "heads": 1},
    },
    "size": {"attention": "ge", "attention_options": {"gather": "conv", "size": [10**6, 10**6]}},
    "context_features": {"attention": "sca", "attention_options": {"context_features": 2_000_000}},
    "groups": {"network": "resnet50", "network_options": {"groups": 10**4}},
    "width_per_group": {"network": "resnet50", "network_options": {"width_per_group": 10**6}},
    "width_multiplier": {"network": "mobilenet_v1", "network_options": {"width_multiplier": 1e4}},
    "a huge width_multiplier": {"network": "mobilenet_v1", "network_options": {"width_multiplier": 1e300}},
    "torchvision": {"network": "torchvision/resnet50", "network_options": {"width_per_group": 10**5}},
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_far_larger_network_is_refused_before_it_takes_memory(case):
    create_model("resnet20", attention="cbam")  # what the modules themselves take
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = Checkpoint(replace(HEADER, **TOO_LARGE[case]), VALUES)
    with pytest.raises(UsageError, match=r"^bad\.ckpt has .*2,000,000 values in 1 ten") as caught:
        rebuild(checkpoint, "bad.ckpt")
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # in kB


def test_a_file_is_refused_likewise(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, VALUES, replace(HEADER, **TOO_LARGE["widths"]))
    for make in (lambda: create_model(weights=path), lambda: create_model(weights=path, num_classes=5)):
        with pytest.raises(UsageError, match=r"x\.safetensors has a damaged header"):
            make()


def test_attention_of_the_file_in_another_network_is_limited_too():
    checkpoint = Checkpoint(replace(HEADER, attention_options={"kernel_size": 10**6 + 1}), VALUES)
    with pytest.raises(UsageError, match="far larger"):
        build_network("resnet8", weights=checkpoint, strict_weights=False, source="bad.ckpt")


def test_a_detector_is_limited_too(tmp_path):
    detector = create_detector("ssd_resnet18_cifar", num_classes=3, class_names=["a", "b"])
    options = {"backbone_options": {"widths": [10**6] * 4}}
    save_checkpoint(tmp_path / "x.safetensors", VALUES, replace(detector.header, network_options=options))
    with pytest.raises(UsageError, match=r"x\.safetensors has a damaged header"):
        create_detector(weights=tmp_path / "x.safetensors")


class Wide(nn.Module):
    def __init__(self, width=8, num_classes=10):
        super().__init__()
        self.register_buffer("grid", torch.zeros(1).expand(width, 1))
        self.fc = nn.Linear(3, num_classes)


def test_networks_of_the_user_and_their_buffers_are_limited(monkeypatch):
    monkeypatch.setattr(registry, "USER_NETWORKS", {})
    register_model("wide", Wide)
    monkeypatch.setattr("cbam_lightning.models.factory.USER_NETWORKS", registry.USER_NETWORKS)
    header = Header("wide", "none", num_classes=10, in_channels=3, network_options={"width": 10**9})
    with pytest.raises(UsageError, match="far larger"):
        rebuild(Checkpoint(header, VALUES), "bad.ckpt")


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("of its own")


def test_other_errors_stay_what_they_are(monkeypatch):
    monkeypatch.setitem(registry.USER_NETWORKS, "broken", Broken)
    with pytest.raises(RuntimeError, match="of its own"):
        rebuild(Checkpoint(Header("broken", "none", 10, 3), VALUES))


def test_what_the_user_asks_for_is_not_limited(tmp_path):
    network = create_model("resnet8", num_classes=10)
    save_checkpoint(tmp_path / "x.safetensors", network.state_dict(), Header("resnet8", "none", 10, 3))
    with pytest.warns(UserWarning, match="the classifier is reinitialised"):
        many = create_model(weights=tmp_path / "x.safetensors", num_classes=300_000)
    assert many.fc.weight.shape == (300_000, 64)
    other = create_model("resnet50", num_classes=10, weights=tmp_path / "x.safetensors", strict_weights=False)
    assert other.num_features == 2048


def test_nothing_is_counted_afterwards():
    with pytest.raises(UsageError):
        rebuild(Checkpoint(replace(HEADER, **TOO_LARGE["widths"]), VALUES), "bad.ckpt")
    assert nn.Linear(10_000, 10_000, device="meta").weight.numel() == 10**8
