"""Parts of torchvision's detectors that keep boxes in float32 when features are in half precision.

torchvision creates the anchors in the dtype of the feature maps, and decodes boxes in that of the predicted
offsets. Under autocast both would be bfloat16, whose resolution is 4 pixels at x = 1000.
Source: ``grid_anchors`` and ``BoxCoder.decode_single`` in
https://github.com/pytorch/vision/tree/main/torchvision/models/detection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import Conv2dNormActivation

from cbam_lightning.attention.gate import at_least_float32


class _Float32Maps(nn.Module):
    """Passes float32 maps of the same height and width to an anchor generator."""

    num_anchors_per_location: Callable[[], list[int]]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> Any:
        """Return the anchors of each image, (A, 4) as x1, y1, x2, y2 in pixels."""
        return super().forward(image_list, [at_least_float32(maps[:1, :1]) for maps in feature_maps])


class DefaultBoxes(_Float32Maps, DefaultBoxGenerator):  # type: ignore[misc]
    """torchvision's default boxes of SSD, in float32."""


class Anchors(_Float32Maps, AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors of Faster R-CNN, in float32."""


class ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's RPN head, with a configurable width and outputs in float32.

    Args:
        in_channels: Number of channels of the feature maps.
        num_anchors: Number of anchors per position.
        channels: Output channels of the 3x3 convolution; torchvision has ``in_channels``.
    """

    def __init__(self, in_channels: int, num_anchors: int, channels: int) -> None:
        super().__init__(channels, num_anchors)
        if channels != in_channels:
            layer = Conv2dNormActivation(in_channels, channels, kernel_size=3, norm_layer=None)
            nn.init.normal_(layer[0].weight, std=0.01)  # as torchvision does
            nn.init.zeros_(layer[0].bias)
            self.conv[0] = layer

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness (N, A, H, W) and offsets (N, 4 A, H, W) of every map."""
        objectness, offsets = super().forward(x)
        return list(map(at_least_float32, objectness)), list(map(at_least_float32, offsets))


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's last layers of Fast R-CNN, with outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (R, num_classes) and offsets (R, 4 num_classes) of R regions (R, C)."""
        logits, offsets = super().forward(x)
        return at_least_float32(logits), at_least_float32(offsets)
