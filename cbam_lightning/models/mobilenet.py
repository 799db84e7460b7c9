"""MobileNet v1 (Howard et al., 2017): https://arxiv.org/abs/1704.04861, Table 1, with attention.

Attention comes after the ReLU of every convolution unit, so the gate acts on the input of the next unit.
CBAM's paper (https://arxiv.org/abs/1807.06521) does not give its position. After every unit is the only
placement with the published parameters and FLOPs; they are the same before and after the ReLU.

As in the paper and unlike its TensorFlow code: ReLU instead of ReLU6, and no dropout. Initial values are
those of this package's ResNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from cbam_lightning.attention.registry import Placement
from cbam_lightning.checks import check_above_zero, check_choice, check_positive
from cbam_lightning.models.classifier_network import AttendedModule, ClassifierNetwork

_STEM_WIDTH = 32
# Channels of the blocks of each stage; every stage but the first halves H and W.
_STAGE_WIDTHS = ((64,), (128,) * 2, (256,) * 2, (512,) * 6, (1024,) * 2)


class ConvUnit(AttendedModule):
    """Convolution, BatchNorm, ReLU and attention, in this order."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.attention = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        output: Tensor = self.attention(self.relu(self.bn(self.conv(x))))
        return output


class DepthwiseSeparable(nn.Module):
    """A 3x3 convolution of each channel separately, with the stride, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvUnit(in_channels, in_channels, 3, stride, groups=in_channels)
        self.pointwise = ConvUnit(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        output: Tensor = self.pointwise(self.depthwise(x))
        return output


class MobileNet(ClassifierNetwork):
    """MobileNet v1: a 3x3 convolution and 13 depthwise-separable blocks, for large or small images.

    Args:
        width_multiplier: Factor of all numbers of channels. The products are rounded down and are at least
            8, as in the authors' code:
            https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet_v1.py
        stem: Stride of the first convolution: ``imagenet`` 2, ``cifar`` 1.
        attention: One of ``list_attention()``.
        attention_options: What the attention's class accepts besides ``channels``.
        placement: ``block``: after each of the 27 convolution units. ``stage``: after every stage but the
            last, that is before each of the 4 depthwise-separable blocks of stride 2. Default: ``stage``
            for attention that its paper puts between stages.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.

    Raises:
        UsageError: An unknown choice, a number out of range, or an attention that cannot be built.
    """

    def __init__(
        self,
        *,
        width_multiplier: float = 1.0,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        attention: str = "none",
        attention_options: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, ("imagenet", "cifar"))
        check_positive("in_channels", in_channels)
        check_above_zero("width_multiplier", width_multiplier)
        self.in_channels = in_channels
        stem_width = max(8, int(_STEM_WIDTH * width_multiplier))
        widths = [[max(8, int(width * width_multiplier)) for width in stage] for stage in _STAGE_WIDTHS]
        self.stem = ConvUnit(in_channels, stem_width, 3, stride=2 if stem == "imagenet" else 1)
        self._add_stages(DepthwiseSeparable, stem_width, widths)
        self._complete(num_classes, attention, attention_options, placement)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the input of the first stage: (N, in_channels, H, W) to (N, C, h, w)."""
        stemmed: Tensor = self.stem(x)
        return stemmed
