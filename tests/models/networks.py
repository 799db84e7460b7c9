"""Networks for the tests: those of the libraries by name, and a small one."""

import pytest
import torch
import torchvision
from torch import nn

from cbam_lightning.models.insertion.points import plan_insertion


def build(name, num_classes=5):
    library, name = name.split("/")
    if library == "timm":
        return pytest.importorskip("timm").create_model(name, num_classes=num_classes)
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def build_on_meta(name):
    with torch.device("meta"):
        return build(name)


def randomise(network):
    """Give BatchNorms what training gives: without it, evaluation mode does nothing, and some begin at 0."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network.eval()


def names(network, where=None, example=None):
    return [point.name for point in plan_insertion(network, where, example)]


class Residual(nn.Module):
    """A block with a shared ReLU, in as many dimensions as its convolution."""

    def __init__(self, conv, channels):
        super().__init__()
        self.conv1 = conv(channels, channels, 3, padding=1)
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.conv2(self.relu(self.conv1(x))))


class Small(nn.Module):
    """A residual network with a list of blocks, one of which it does not call, and dropout."""

    def __init__(self, conv=nn.Conv2d, in_channels=2):
        super().__init__()
        self.stem = conv(in_channels, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(conv, 8) for _ in range(3))
        self.norm = nn.BatchNorm2d(8) if conv is nn.Conv2d else nn.Identity()
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.stem(x))
        for block in self.blocks[:2]:
            x = block(x)
        return self.fc(self.dropout(x.flatten(2).mean(2)))
