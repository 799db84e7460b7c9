"""One builder opens the weights, fills in the names, builds the network and loads the weights."""

import pytest
import torch

from cbam_lightning.models import build_network, pretrained
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import load_checkpoint

SHIPPED = "resnet20_cbam.fashion_mnist"


def test_without_weights_the_names_are_complete():
    built = build_network("resnet8", num_classes=3)
    assert built.names == {
        "network": "resnet8",
        "attention": "none",
        "attention_options": {},
        "network_options": {},
    }
    assert (built.header, built.report, built.new_classes) == (None, None, None)
    assert (built.network.num_classes, built.network.in_channels) == (3, 3)


def test_weights_are_read_once_and_give_names_and_values(monkeypatch):
    read = []
    monkeypatch.setattr(
        pretrained, "load_checkpoint", lambda path: read.append(path) or load_checkpoint(path)
    )
    built = build_network(weights=SHIPPED, attention_options={"implementation": "reference"})
    assert len(read) == 1
    assert (built.names["network"], built.names["attention"]) == ("resnet20", "cbam")
    assert built.names["attention_options"] == {"gate": "identity", "implementation": "reference"}
    assert built.new_classes is None
    state = open_checkpoint(SHIPPED).state_dict
    assert set(built.report.matched) == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in built.network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"num_classes": 7},
            "fashion_mnist has 10 classes (T-shirt/top, Trouser, Pullover, …), the network has 7",
        ),
        ({"class_names": list("0123456789")}, "the network has 10 (0, 1, 2, …)"),
    ],
)
def test_other_classes_leave_the_classifier_new(options, expected):
    built = build_network(weights=open_checkpoint(SHIPPED), source=SHIPPED, **options)
    assert built.new_classes.endswith(expected)
    assert set(built.report.missing) == {"fc.weight", "fc.bias"}
    assert built.network.fc.bias.abs().max() == 0
