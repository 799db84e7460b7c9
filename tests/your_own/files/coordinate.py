"""Coordinate attention (Hou et al. 2021, https://arxiv.org/abs/2103.02907), as a user would write it."""

import torch
from torch import nn

from cbam_lightning import register_attention


@register_attention("coordinate")
class CoordinateAttention(nn.Module):
    """Two gates, one along the height and one along the width (section 3.2).

    Args:
        channels: C of the feature maps.
        reduction: C divided by the number of hidden channels, of which there are at least 8.
    """

    def __init__(self, channels, reduction=32):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.shared = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.along_height = nn.Conv2d(hidden, channels, 1)
        self.along_width = nn.Conv2d(hidden, channels, 1)

    def gates(self, x):
        """Return the gates (N, C, H, 1) and (N, C, 1, W)."""
        height, width = x.shape[2:]
        rows = x.mean(3, keepdim=True)  # (N, C, H, 1)
        columns = x.mean(2, keepdim=True).transpose(2, 3)  # (N, C, W, 1)
        hidden = self.shared(torch.cat((rows, columns), 2))
        rows, columns = hidden.split((height, width), 2)
        return self.along_height(rows).sigmoid(), self.along_width(columns.transpose(2, 3)).sigmoid()

    def forward(self, x):
        """Return x times both gates, (N, C, H, W) to the same."""
        along_height, along_width = self.gates(x)
        return x * along_height * along_width

    def gate_maps(self, x):
        """Return what ``explain`` draws: the product of both gates, averaged over the channels."""
        along_height, along_width = self.gates(x)
        return {"spatial": (along_height * along_width).mean(1, keepdim=True)}
