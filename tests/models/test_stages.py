"""Stages of any network: each parameter is in exactly one, in the order of the forward pass."""

import pytest
import torch
from torch import nn

from cbam_lightning import create_model, list_attention
from cbam_lightning.models.stages import find_stages
from tests.models.networks import Small, build


def first_modules(network, **options):
    return {stage.name: next(iter(stage.modules)) for stage in find_stages(network, **options)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "torchvision/resnet18",
            ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1", "fc"],
        ),
        (
            "torchvision/vgg11_bn",
            ["features.0", "features.4", "features.8", "features.15", "features.22", "classifier.6"],
        ),
        (
            "torchvision/densenet121",
            [
                "features.conv0",
                "features.denseblock1.denselayer1.norm1",
                "features.denseblock2.denselayer1.norm1",
                "features.denseblock3.denselayer1.norm1",
                "features.denseblock4.denselayer1.norm1",
                "classifier",
            ],
        ),
        (
            "torchvision/convnext_tiny",
            ["features.0.0", "features.2.1", "features.4.1", "features.6.1", "classifier.2"],
        ),
        (
            "torchvision/squeezenet1_1",
            ["features.0", "features.3.squeeze", "features.6.squeeze", "features.9.squeeze"],
        ),
        (
            "timm/efficientnet_b0",
            [
                "conv_stem",
                "blocks.1.0.conv_dw",
                "blocks.2.0.conv_dw",
                "blocks.3.0.conv_dw",
                "blocks.5.0.conv_dw",
                "classifier",
            ],
        ),
        (
            "timm/legacy_seresnet18",
            [
                "layer0.conv1",
                "layer1.0.conv1",
                "layer2.0.conv1",
                "layer3.0.conv1",
                "layer4.0.conv1",
                "last_linear",
            ],
        ),
    ],
)
def test_stages_begin_where_the_resolution_falls(name, expected):
    network = build(name)
    stages = find_stages(network)
    assert [next(iter(stage.modules)) for stage in stages] == expected
    parameters = [id(p) for stage in stages for p in stage.parameters]
    assert sorted(parameters) == sorted(id(p) for p in network.parameters())
    statistics = {id(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert statistics <= {id(m) for stage in stages for m in stage.modules.values()}


@pytest.mark.parametrize("attention", list_attention())
def test_attention_is_of_the_stage_that_it_is_in(attention):
    network = create_model("resnet20", attention=attention, num_classes=10, in_channels=1)
    stages = find_stages(network, (1, 1, 28, 28))
    assert [stage.name for stage in stages] == ["stage1", "stage2", "stage3", "head"]
    for stage, part in zip(stages, ("layer1", "layer2", "layer3", "fc"), strict=True):
        expected = {
            name
            for name, m in network.named_modules()
            if part in name.partition(".attention.")[0].split(".") and m._parameters
        }
        expected |= {"conv1", "bn1"} if part == "layer1" else set()
        assert {name for name, m in stage.modules.items() if m._parameters} == expected


def test_a_module_that_is_not_called_and_one_without_convolutions():
    names = {stage.name: list(stage.modules) for stage in find_stages(Small())}
    assert list(names) == ["stage1", "head"]
    assert "blocks.2.conv1" in names["stage1"]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert first_modules(plain, example=(1, 1, 2, 2)) == {"stage1": "1", "head": "3"}


def test_the_network_is_only_looked_at():
    network = create_model("resnet20", attention="cbam", num_classes=10, in_channels=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    assert str(find_stages(network)[0]).startswith("stage1 (conv1 to layer1.2.")
    assert str(find_stages(network)[-1]) == "head (fc)"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
