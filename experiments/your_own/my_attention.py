"""Attention: any module from (N, C, H, W) to the same shape whose first argument is ``channels``."""

from torch import nn


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)
