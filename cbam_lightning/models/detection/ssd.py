"""SSD (Liu et al., ECCV 2016) and StairNet (Woo et al., WACV 2018), with attention before every head.

Papers: SSD https://arxiv.org/abs/1512.02325, StairNet https://arxiv.org/abs/1709.05788, CBAM
https://arxiv.org/abs/1807.06521. Losses, matching and suppression are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/detection/ssd.py).

CBAM's paper puts attention "right before every classifier". Here that is one module per scale, on the map
that the box and class convolutions of the scale share.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD, SSDHead

from cbam_lightning.attention.gate import at_least_float32
from cbam_lightning.attention.registry import build_attention
from cbam_lightning.models.detection.detector_network import DetectorNetwork, Specification, numbers_of
from cbam_lightning.models.detection.precision import DefaultBoxes
from cbam_lightning.models.detection.resnet_maps import CoarseMaps
from cbam_lightning.models.detection.stairnet import TopDown
from cbam_lightning.models.detection.vgg import VGG16Maps

# The recipe of SSD is torchvision's: scores of at least 0.01, suppression above an overlap of 0.45, 200
# detections, matches at an overlap of at least 0.5, 3 negatives per positive. The weights of the offsets,
# (10, 10, 5, 5), are SSD's variances of 0.1 and 0.2.
NUMBERS = numbers_of(SSD)


class AttendedHead(SSDHead):  # type: ignore[misc]
    """An optional top-down path, attention on every map, then SSD's convolutions for classes and boxes.

    Args:
        in_channels: Number of channels of every map.
        num_anchors: Number of default boxes per position of every map.
        spec: The number of classes and the attention.
        top_down: StairNet's path, if any.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_anchors: Sequence[int],
        spec: Specification,
        top_down: TopDown | None = None,
    ) -> None:
        channels = list(in_channels) if top_down is None else top_down.out_channels
        super().__init__(channels, list(num_anchors), spec.num_classes)
        self.top_down = nn.Identity() if top_down is None else top_down
        # added last, so that the loops that initialise the convolutions do not reach it
        self.attention = nn.ModuleList(
            build_attention(spec.attention, number, **spec.attention_options) for number in channels
        )

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Return ``bbox_regression``, (N, A, 4), and ``cls_logits``, (N, A, num_classes), in float32."""
        maps = [attend(x) for attend, x in zip(self.attention, self.top_down(x), strict=True)]
        return {name: at_least_float32(value) for name, value in super().forward(maps).items()}


class SSDNetwork(DetectorNetwork, SSD):  # type: ignore[misc]
    """torchvision's SSD with ``AttendedHead``.

    Args:
        backbone: Computes an ordered dictionary of maps, with ``out_channels``, from images.
        stages: As in ``DetectorNetwork``.
        boxes: The default boxes.
        size_px: Height and width to which images are resized.
        spec: The arguments of every detector.
        top_down: StairNet's path, if any.
        numbers: Those of ``NUMBERS`` that differ from torchvision's.
    """

    def __init__(
        self,
        backbone: CoarseMaps | VGG16Maps,
        stages: list[list[str]],
        boxes: DefaultBoxes,
        size_px: int,
        spec: Specification,
        top_down: TopDown | None,
        **numbers: float,
    ) -> None:
        head = AttendedHead(backbone.out_channels, boxes.num_anchors_per_location(), spec, top_down)
        parts = {"anchor_generator": boxes, "head": head, "size": (size_px, size_px), **numbers}
        super().__init__(backbone, stages, spec, num_classes=spec.num_classes, **parts)
        self.size_px = size_px
