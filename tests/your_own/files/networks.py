"""A user-defined network without any attention."""

from torch import nn


class Shallow(nn.Module):
    def __init__(self, num_classes, in_channels, width=8):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.last(self.body(x).mean((2, 3)))
