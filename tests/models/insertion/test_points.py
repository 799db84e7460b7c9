"""Insertion points, found without a change to the network."""

import copy

import pytest
import torch
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion.points import plan_insertion
from tests.models.networks import Small, build_on_meta, names, randomise

RESNET18 = [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3, 4) for block in (0, 1)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision/resnet18", RESNET18),
        ("timm/resnet18", RESNET18),
        ("torchvision/vgg11_bn", [f"features.{index}" for index in (2, 6, 13, 20, 27)]),
        (
            "torchvision/densenet121",
            [
                "features.relu0",
                *[f"features.transition{number}.conv" for number in (1, 2, 3)],
                "features.norm5",
            ],
        ),
        (
            "torchvision/convnext_tiny",
            [
                f"features.{stage}.{block}.stochastic_depth"
                for stage, blocks in ((1, 3), (3, 3), (5, 9), (7, 3))
                for block in range(blocks)
            ],
        ),
        (
            "timm/ghostnet_050",
            [f"blocks.{stage}.0.ghost2" for stage in range(6)]
            + [f"blocks.6.{block}.ghost2" for block in range(5)]
            + ["blocks.7.0.ghost2"]
            + [f"blocks.8.{block}.ghost2" for block in range(4)],
        ),
        ("torchvision/squeezenet1_1", ["features.1", "features.4", "features.7", "features.12"]),
        (
            "torchvision/swin_v2_t",
            [
                f"features.{stage}.{block}.norm{n}"
                for stage, blocks in ((1, 2), (3, 2), (5, 6), (7, 2))
                for block in range(blocks)
                for n in (1, 2)
            ],
        ),
        ("timm/nf_resnet26", [f"stages.{stage}.{block}.conv3" for stage in range(4) for block in range(2)]),
    ],
)
def test_insertion_points_of_known_networks(name, expected):
    network = build_on_meta(name)  # without contents, which the search does not need
    assert names(network) == expected


def test_stages_are_the_last_outputs_of_a_resolution():
    points = plan_insertion(build_on_meta("torchvision/resnet18"), "stage", example=(1, 3, 64, 96))
    assert [(point.name, point.channels, point.shape[2:]) for point in points] == [
        ("relu", 64, (32, 48)),
        ("layer1.1", 64, (16, 24)),
        ("layer2.1", 128, (8, 12)),
        ("layer3.1", 256, (4, 6)),
        ("layer4.1", 512, (2, 3)),
    ]


def test_a_stage_does_not_end_inside_a_branch():
    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.Conv2d(4, 4, 1)
            self.right = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x):
            return torch.cat([self.left(x), self.right(x)], 1)

    network = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Sequential(Inception(), nn.MaxPool2d(2)),
        nn.Conv2d(8, 2, 1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    # The last pool lowers the resolution without a convolution, so it does not end a stage.
    assert names(network, example=(1, 3, 8, 8)) == ["1.0", "2"]


def test_equally_long_branches_have_no_shortcut():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.small = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.large(x) + self.small(x)

    network = nn.Sequential(Parallel(), nn.ReLU(), nn.Conv2d(3, 1, 1))
    assert names(network) == ["1"]
    with pytest.raises(UsageError, match="where='stage'"):
        plan_insertion(network, "residual")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("layer*.bn2", RESNET18),
        ("layer[12]", ["layer1.1", "layer2.1"]),  # a list of modules stands for its last one
        (["layer4", "layer1.?.bn1"], ["layer1.0.bn1", "layer1.1.bn1", "layer4.1"]),
        (["residual"], RESNET18),
    ],
)
def test_patterns_of_submodule_names(where, expected):
    assert names(build_on_meta("torchvision/resnet18"), where) == expected


def test_planning_changes_nothing():
    network = randomise(Small()).train()
    network.norm.eval()  # frozen, as in fine-tuning
    before = copy.deepcopy(network.state_dict())
    flags = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    assert names(network) == ["blocks.0.conv2", "blocks.1.conv2"]
    assert [module.training for module in network.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in network.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.device.type == "cpu"


def test_a_network_that_needs_contents_runs_for_real():
    class Gated(Small):
        def forward(self, x):
            return super().forward(x if x.sum().item() >= 0 else -x)

    network = Gated()
    before = copy.deepcopy(network.state_dict())
    assert names(network, example=torch.ones(2, 2, 8, 8)) == ["blocks.0.conv2", "blocks.1.conv2"]
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


class TupleNetwork(Small):
    def forward(self, x):
        return (super().forward(x),)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("block.0", "Give 'residual', 'stage' or a pattern of names such as blocks.0"),
        ("blocks.0.relu", "is called 2 times .* Choose modules such as blocks.0.conv1, blocks.0.conv2"),
        ("blocks", "is not called .* Choose modules such as .*blocks.1"),
        ("fc", r"shape \(1, 3\), not a feature map.* Choose modules such as"),
        ([], "give 'residual', 'stage'"),
        (["stem", 3], "give 'residual', 'stage'"),
        (3, "where is 3; give 'residual', 'stage'"),
    ],
)
def test_wrong_patterns_say_what_to_choose(where, message):
    with pytest.raises(UsageError, match=message):
        plan_insertion(Small(), where)


def test_a_module_that_returns_a_tuple_is_refused():
    network = nn.Sequential(TupleNetwork())
    with pytest.raises(UsageError, match="'0', which returns tuple, not a tensor"):
        plan_insertion(network, "0")


@pytest.mark.parametrize("network", [nn.Linear(3, 2), nn.Sequential(nn.Flatten())])
def test_without_a_convolution_an_example_is_needed(network):
    with pytest.raises(UsageError, match="Pass `example`"):
        plan_insertion(network)
