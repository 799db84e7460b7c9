"""torchvision's and timm's networks by name: their logits, and the surface of this package's own networks."""

import sys

import pytest
import torch
import torchvision
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.external import build_external, list_external
from cbam_lightning.models.torchvision_network import _FAMILIES, TorchvisionNetwork

# The smallest of each family.
SMALLEST = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "vgg": "vgg11_bn",
}


def test_every_family_is_tested():
    assert SMALLEST.keys() == _FAMILIES.keys()


@pytest.mark.parametrize("name", SMALLEST.values())
def test_logits_and_keys_are_those_of_torchvision(name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5)
    torch.manual_seed(0)
    ours = TorchvisionNetwork(name, num_classes=5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for (key, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        for training in (True, False):  # training first, so that evaluation has running statistics
            torch.manual_seed(1)
            expected = theirs.train(training)(x)
            torch.manual_seed(1)
            assert torch.equal(ours.train(training)(x), expected)

        features = ours.forward_features(x)
        assert features.ndim == 4
        assert torch.equal(ours.forward_head(features), expected)
        pooled = ours.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, ours.num_features)
        last = ours.get_classifier()
        if isinstance(last, nn.Linear):
            torch.testing.assert_close(last(pooled), expected)
        ours.reset_classifier(0)
        assert torch.equal(ours(x), pooled)
        ours.reset_classifier(7)
        assert ours(x).shape == (2, 7)
        assert ours.num_classes == 7
        assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_one_channel_is_three_equal_ones_with_their_weights_summed(name):
    grey = TorchvisionNetwork(name, num_classes=4, in_channels=1).double().eval()
    coloured = TorchvisionNetwork(name, num_classes=4).double().eval()
    state = coloured.state_dict()
    first = next(key for key, value in state.items() if value.ndim == 4)
    grey.load_state_dict(state | {first: state[first].sum(1, keepdim=True)})
    x = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(grey(x), coloured(x.expand(-1, 3, -1, -1)))


def test_no_classes_return_features():
    network = build_external("torchvision/mobilenet_v3_small", num_classes=0).eval()
    x = torch.randn(1, 3, 64, 64)
    assert network.num_classes == 0
    assert torch.equal(network(x), network.forward_head(network.forward_features(x), pre_logits=True))
    assert isinstance(network.get_classifier(), nn.Identity)


@pytest.mark.parametrize(
    "name", ["torchvision/resnet18", "torchvision/densenet121", "timm/resnet18", "timm/convnext_atto"]
)
def test_attention_is_put_in_as_the_identity(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    options = {"num_classes": 6, "in_channels": 1}
    torch.manual_seed(0)
    plain = build_external(name, **options).eval()
    network = build_external(name, "cbam", {"reduction": 4}, **options).eval()
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys
    assert all(".attention." in key for key in missing.missing_keys)
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(network(x), plain(x))
    assert (network.num_classes, network.in_channels) == (6, 1)
    features = network.forward_features(x)
    assert torch.equal(network.forward_head(features), network(x))
    assert network.forward_head(features, pre_logits=True).shape == (2, network.num_features)
    network.reset_classifier(3)
    assert network(x).shape == (2, 3)


def test_gate_and_place_can_be_chosen():
    network = build_external("torchvision/resnet18", "cbam", {"gate": "sigmoid"}, where="layer[34]")
    assert network.layer3[1].attention.channel.gate == "sigmoid"
    found = {key.split(".attention.")[0] for key in network.state_dict() if ".attention." in key}
    assert found == {"layer3.1", "layer4.1"}


def test_options_reach_the_network():
    assert build_external("torchvision/mobilenet_v2", width_mult=0.5, dropout=0.3).classifier[0].p == 0.3
    pytest.importorskip("timm")
    assert build_external("timm/resnet18", drop_rate=0.3).drop_rate == 0.3


def test_names_of_the_libraries():
    known = list_external("torchvision/*")
    assert {f"torchvision/{name}" for name in SMALLEST.values()} <= set(known)
    assert not [name for name in known if "vit" in name or "swin" in name or "googlenet" in name]
    assert list_external("torchvision/resnet1?") == ["torchvision/resnet18"]


def test_the_tag_of_timms_weights_may_be_named():
    pytest.importorskip("timm")
    assert build_external("timm/resnet18.a1_in1k", num_classes=3).fc.out_features == 3


def test_names_of_timm():
    pytest.importorskip("timm")
    known = list_external("timm/*")
    assert {"timm/resnet18", "timm/convnext_atto", "timm/ghostnet_050"} <= set(known)
    assert not [name for name in known if "swin" in name or "vit_" in name.replace("repvit_", "")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet19", "Did you mean .*resnet18"),
        ("torchvision/googlenet", "not a convolutional network with one output. .* alexnet, convnext"),
        ("torchvision/vit_b_16", "not a convolutional network with one output"),
        ("keras/resnet50", "unknown library 'keras'"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        build_external(name)


@pytest.mark.parametrize(
    "name",
    [
        "timm/resnet19",
        "timm/hf_hub:timm/resnet50",
        "timm/swin_tiny_patch4_window7_224",
    ],
)
def test_wrong_names_of_timm_are_refused(name):
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match="no convolutional network of timm is called"):
        build_external(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision/resnet18", {"dropot": 0.1}, "torchvision/resnet18 does not take .*dropot"),
        ("torchvision/resnet18", {"num_classes": -1}, "num_classes is -1"),
        ("torchvision/resnet18", {"in_channels": 0}, "in_channels is 0"),
        ("torchvision/resnet18", {"attention_options": {"where": "layer1"}}, "as a network option"),
        ("timm/resnet18", {"dropot": 0.1}, "timm/resnet18 cannot be built .*dropot"),
        ("timm/resnet18.nonsense", {}, "timm/resnet18.nonsense cannot be built .*tag"),
        ("timm/resnet18", {"num_classes": -1}, "num_classes is -1"),
        ("timm/resnet18", {"in_channels": 0}, "in_channels is 0"),
        ("timm/resnet18", {"pretrained": True}, "does not take pretrained.*weights"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(UsageError, match=message):
        build_external(name, **options)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'cbam_lightning\[timm\]'"):
        build_external("timm/resnet18")
    with pytest.raises(UsageError, match=r"pip install 'cbam_lightning\[timm\]'"):
        list_external("timm/*")
    assert {name.partition("/")[0] for name in list_external()} == {"torchvision"}
