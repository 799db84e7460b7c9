"""StairNet's top-down path (Woo, Hwang, Jang and Kweon, WACV 2018): https://arxiv.org/abs/1709.05788.

Layers and sizes follow later code of its second author, https://github.com/SoonminHwang/ssd.pytorch, branch
``multiscale_anchor_quantization``, ``models/stairnet.py``, with all six maps in use. They match the 32.0
million parameters in CBAM's paper, but so do other layouts, so this is no proof. The order of lateral
convolution, sum and 3x3 convolution is from that code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class TopDown(nn.Module):
    """Merge coarse maps into finer ones, and give all maps the same number of channels.

    Starting at the coarsest map: merged = BN(1x1 convolution(map)) + BN(3x3 transposed convolution(merged of
    the next coarser map)); the output is ReLU(BN(3x3 convolution(merged))).

    Args:
        in_channels: Number of channels of every map, finest first.
        channels: Number of channels of every output.
        strides: Ratio of every map's size to that of the next coarser one, 1 or 2. With 1 the convolution is
            not padded, so the finer map has 2 more positions in each direction.
        momentum: Momentum of the BatchNorms.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, strides: Sequence[int], momentum: float
    ) -> None:
        super().__init__()
        self.out_channels = [channels] * len(in_channels)
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(number, channels, 1, bias=False), nn.BatchNorm2d(channels, momentum=momentum)
            )
            for number in in_channels
        )
        self.up = nn.ModuleList(Upsampling(channels, stride, momentum) for stride in strides)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels, momentum=momentum),
                nn.ReLU(),
            )
            for _ in in_channels
        )
        xavier(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps (N, channels, h, w) of the same number and sizes as ``maps``, finest first."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in reversed(range(len(merged) - 1)):
            merged[level] = merged[level] + self.up[level](merged[level + 1], merged[level].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]


class Upsampling(nn.Module):
    """3x3 transposed convolution and BatchNorm, (N, C, h, w) to (N, C, H, W).

    Args:
        channels: C.
        stride: 2 for H = 2 h or 2 h - 1, 1 for H = h + 2.
        momentum: Momentum of the BatchNorm.
    """

    def __init__(self, channels: int, stride: int, momentum: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 3, stride, padding=stride - 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, momentum=momentum)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return maps of ``size``, (H, W)."""
        upsampled: Tensor = self.bn(self.conv(x, output_size=list(size)))
        return upsampled


def xavier(module: nn.Module) -> None:
    """Initialise convolutions with Xavier-uniform weights and zero biases, like SSD's new layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
