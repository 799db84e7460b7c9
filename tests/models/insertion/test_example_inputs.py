"""Inputs for networks of every kind, and what is said to those that need others."""

import pytest
import torch
import torchvision
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion import insert_attention, plan_insertion
from tests.models.networks import Small, names

BRANCHES = ["a.blocks.0.conv2", "a.blocks.1.conv2"]
IMAGE, MASK = torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = Small()

    def forward(self, image, mask, scale=1.0):
        return self.a(image * mask * scale)


class TakesDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = Small()

    def forward(self, batch):
        return {"logits": self.a(batch["image"])}


@pytest.mark.parametrize(
    ("network", "example"),
    [(TwoInputs, (IMAGE, MASK)), (TakesDict, {"image": IMAGE}), (TakesDict, ({"image": IMAGE},))],
)
def test_an_example_may_be_what_the_network_takes(network, example):
    assert names(network(), example=example) == BRANCHES
    network = insert_attention(network(), "se", example=example)
    inputs = example if isinstance(example, tuple) else (example,)
    assert plan_insertion(network.eval(), "a.stem", example)
    network(*inputs)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (TwoInputs, r"TwoInputs takes 2 inputs \(image, mask\). Pass `example`: a tuple"),
        (
            TakesDict,
            r"does not run on an input of shape \(1, 2, 224, 224\): .*a dict if the network takes one",
        ),
        (lambda: nn.DataParallel(Small()), r"wrapped in DataParallel. Insert attention before wrapping"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 1), nn.Flatten()), "lazy layers without sizes. Run it once"),
        (lambda: "resnet18", "network is a str; pass a torch.nn.Module"),
    ],
)
def test_what_cannot_be_planned_is_told(network, message):
    with pytest.raises(UsageError, match=message):
        insert_attention(network(), "cbam")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("make", [torch.jit.script, lambda n: torch.jit.trace(n, torch.zeros(1, 2, 8, 8))])
def test_torchscript_is_refused(make):
    scripted = make(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten()).eval())
    with pytest.raises(UsageError, match="TorchScript, whose code is fixed"):
        insert_attention(scripted, "cbam")


def test_dims_follow_from_the_map():
    with pytest.raises(
        UsageError, match=r"dims is 3, but the output of 'blocks.0.conv2'.* has 2 position dimensions"
    ):
        insert_attention(Small(), "cbam", dims=3)
    assert (
        insert_attention(Small(nn.Conv3d), "cbam", dims=3, example=(1, 2, 8, 8, 8)).blocks[0].conv2.attention
    )


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: torchvision.models.VisionTransformer(96, 16, 1, 2, 32, 64), (1, 37, 32)),
        (lambda: torchvision.models.MaxVit((384, 384), 16, 12, [16], [1], 8, 0.0), (1, 16, 96, 96)),
        (lambda: torchvision.models.video.mvit_v1_b(), (1, 25089, 96)),
    ],
)
def test_networks_of_a_fixed_size_get_it(network, shape):
    assert plan_insertion(network())[0].shape == shape
