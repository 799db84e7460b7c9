"""Network: any module with ``num_classes`` and ``in_channels`` that returns logits; attention is inserted."""

from torch import nn


class Small(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        layers = [nn.Conv2d(in_channels, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
