"""Networks by name."""

import subprocess
import sys

import pytest
import torch

from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model, describe_models, list_models


@pytest.mark.parametrize("name", list_models())
def test_every_network_has_the_common_surface(name):
    with torch.device("meta"):
        network = create_model(name, attention="cbam", num_classes=7, in_channels=1)
        features = network.forward_features(torch.empty(2, 1, 64, 64))
        assert features.shape[:2] == (2, network.num_features)
        assert network.forward_head(features, pre_logits=True).shape == (2, network.num_features)
        assert network(torch.empty(2, 1, 64, 64)).shape == (2, network.num_classes) == (2, 7)
        assert network.in_channels == 1
        assert network.get_classifier().weight.shape == (7, network.num_features)
        network.reset_classifier(0)
        assert network(torch.empty(2, 1, 64, 64)).shape == (2, network.num_features)
    assert all(value.is_meta for value in network.state_dict().values())


@pytest.mark.parametrize("attention", list_attention())
def test_every_attention_can_be_named(attention):
    with torch.device("meta"):
        network = create_model("resnet20", attention=attention)
        plain = create_model("resnet20")
    assert type(network.layer1[0].attention) is type(create_attention(attention, 16))
    assert (len(network.state_dict()) > len(plain.state_dict())) == (attention != "none")


@pytest.mark.parametrize("name", list_models())
def test_depth_in_the_name_is_the_number_of_weighted_layers(name):
    with torch.device("meta"):
        network = create_model(name)
    layers = [
        key
        for key, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and "downsample" not in key
    ]
    assert name.removesuffix("_cifar") == f"resnet{len(layers)}"


@pytest.mark.parametrize("name", list_models())
def test_stem_belongs_to_the_size_of_the_images(name):
    with torch.device("meta"):
        network = create_model(name)
    on_cifar = "CIFAR" in describe_models(name)[name]
    assert network.conv1.stride == ((1, 1) if on_cifar else (2, 2))
    assert on_cifar == (name.endswith("_cifar") or network.num_features == 64)


def test_names_are_in_natural_order():
    names = list_models()
    assert names[:3] == ["resnet18", "resnet18_cifar", "resnet20"]
    assert names.index("resnet50") < names.index("resnet101") < names.index("resnet110")
    assert len(set(names)) == len(names)


def test_patterns_choose_names():
    chosen = list_models("resnet*_cifar")
    assert chosen == [name for name in list_models() if name.endswith("_cifar")] != []
    assert list(describe_models("resnet*_cifar")) == chosen
    assert list_models("RESNET*") == []


def test_every_name_has_one_line_of_description():
    assert list(describe_models()) == list_models()
    for description in describe_models().values():
        assert description
        assert "\n" not in description


def test_listing_does_not_import_torch():
    code = "import sys, cbam_lightning.models as m; print(len(m.list_models()), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(len(list_models())), "False"]


def test_options_replace_those_of_the_name():
    network = create_model("resnet18", widths=(4, 8, 8, 16), stem="cifar", num_classes=2)
    assert network.num_features == 16
    assert network.conv1.stride == (1, 1)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UsageError, match=r"unknown model 'resnt50'\. Did you mean 'resnet50'\? Allowed: .*resnet18"
    ):
        create_model("resnt50")


def test_an_unknown_option_is_refused():
    with pytest.raises(UsageError, match=r"unknown resnet18 option 'width'\. Did you mean 'widths'\?"):
        create_model("resnet18", width=64)
