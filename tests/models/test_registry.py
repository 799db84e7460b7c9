"""Networks by name."""

import re
import subprocess
import sys

import pytest
import torch
import torchvision

from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.attention.registry import default_placement
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model, describe_models, list_models
from cbam_lightning.models.registry import MODELS
from tests.attention.cases import fitting


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
    after_stages = default_placement(attention) == "stage"
    placed = network.attention["layer1"] if after_stages else network.layer1[0].attention
    assert type(placed) is type(create_attention(attention, 16))
    assert (len(network.state_dict()) > len(plain.state_dict())) == bool(placed.state_dict())


@pytest.mark.parametrize("attention", list_attention())
@pytest.mark.parametrize("name", list_models())
def test_every_network_takes_every_attention(name, attention):
    with torch.device("meta"):
        widths = {*create_model(name).stage_channels.values()}
        # of a module that has to divide the channels, a number that divides all of them
        options = next(filter(None, (fitting(attention, {}, width) for width in widths)), {})
        network = create_model(name, attention=attention, attention_options=options, num_classes=7)
    kind = type(create_attention(attention, 16))
    count = sum(type(module) is kind for module in network.modules())
    stages = len(network.stage_channels)
    if default_placement(attention) == "stage":
        assert count == stages - 1
    elif attention != "none":
        assert count >= stages  # resnet8 has one block in each


@pytest.mark.parametrize("attention", list_attention())
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {}),
        ("resnet50_cifar", {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16)}),
        ("wide_resnet18_2.0_cifar", {"depths": (1, 1), "widths": (16, 32), "stem_width": 8}),
        ("resnext50_32x4d_cifar", {"depths": (1, 1), "widths": (16, 32), "stem_width": 8}),
        ("mobilenet_v1_cifar", {"width_multiplier": 0.25}),
    ],
)
def test_a_small_network_of_every_family_trains_a_step_with_every_attention(name, options, attention):
    torch.manual_seed(0)
    network = create_model(name, attention=attention, num_classes=4, **options)
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
    for key, parameter in network.named_parameters():
        assert parameter.isfinite().all(), key
    assert not torch.equal(network.fc.weight, before["fc.weight"])
    first = next(iter(before))
    assert not torch.equal(network.state_dict()[first], before[first])


@pytest.mark.parametrize("name", list_models("*resne*"))
def test_depth_in_the_name_is_the_number_of_weighted_layers(name):
    with torch.device("meta"):
        network = create_model(name)
    layers = [
        key
        for key, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and "downsample" not in key
    ]
    assert int(re.search(r"resne[xt]t?(\d+)", name).group(1)) == len(layers)


@pytest.mark.parametrize("name", list_models())
def test_stem_belongs_to_the_size_of_the_images(name):
    with torch.device("meta"):
        network = create_model(name)
    on_cifar = "CIFAR" in describe_models(name)[name]
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.stride == ((1, 1) if on_cifar else (2, 2))
    assert on_cifar == (name.endswith("_cifar") or network.num_features == 64)


def test_networks_of_torchvision_are_those_whose_weights_fit():
    named = {name: entry.torchvision for name, entry in MODELS.items() if entry.torchvision}
    assert set(named) == {*(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), "resnext50_32x4d"}
    for name, theirs in named.items():
        with torch.device("meta"):
            expected = torchvision.models.get_model(theirs)
            ours = create_model(name)
        assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
            (k, v.shape) for k, v in expected.state_dict().items()
        ]
        assert torchvision.models.get_model_weights(theirs)["IMAGENET1K_V1"].meta["num_params"] == sum(
            parameter.numel() for parameter in ours.parameters()
        )


def test_names_are_in_natural_order():
    names = list_models()
    start = names.index("resnet18")
    assert names[start : start + 3] == ["resnet18", "resnet18_cifar", "resnet20"]
    assert names.index("resnet50") < names.index("resnet101") < names.index("resnet110")
    assert len(set(names)) == len(names)


def test_patterns_choose_names():
    chosen = list_models("resnet*_cifar")
    assert chosen == [n for n in list_models() if n.startswith("resnet") and n.endswith("_cifar")] != []
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
