"""SSD300 and StairNet on VGG16, as in CBAM's experiments on VOC (https://arxiv.org/abs/1807.06521).

With 21 classes they match the parameter counts of the paper: SSD300 26,515,936, StairNet 32,005,600, with SE
32,056,384, with CBAM 32,056,984, counting all parameters, including weights and biases of plain BatchNorms.
"""

from __future__ import annotations

from cbam_lightning.models.detection.detector_network import Specification
from cbam_lightning.models.detection.precision import DefaultBoxes
from cbam_lightning.models.detection.ssd import NUMBERS, SSDNetwork
from cbam_lightning.models.detection.stairnet import TopDown
from cbam_lightning.models.detection.vgg import VGG16Maps

__all__ = ["NUMBERS", "ssd300_vgg16", "stairnet_vgg16"]

# SSD300 on VOC, https://github.com/weiliu89/caffe/blob/ssd/examples/ssd/ssd_pascal.py: min_size 30, 60, 111,
# 162, 213, 264 and max_size 315 of 300 px. Ratios 2 and 3 also on conv4_3, to match CBAM's 26.5 million.
_VOC_SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
_VOC_RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VOC_STEPS_PX = (8, 16, 32, 64, 100, 300)
# No stride from conv10_2 with 3 positions to conv11_2 with 1, see ``TopDown``.
_VGG_STRIDES = (2, 2, 2, 2, 1)


def ssd300_vgg16(
    maps: VGG16Maps, spec: Specification, top_down: TopDown | None = None, **numbers: float
) -> SSDNetwork:
    """Build SSD300 in its version for VOC.

    Args:
        maps: The feature maps of VGG16.
        spec: The arguments of every detector.
        top_down: StairNet's path, if any.
        numbers: As in ``SSDNetwork``.
    """
    stages = [[f"backbone.{name}" for name in stage] for stage in maps.stages]
    boxes = DefaultBoxes(
        [list(ratios) for ratios in _VOC_RATIOS], scales=list(_VOC_SCALES), steps=list(_VOC_STEPS_PX)
    )
    return SSDNetwork(maps, stages, boxes, 300, spec, top_down, **numbers)


def stairnet_vgg16(
    maps: VGG16Maps,
    spec: Specification,
    *,
    top_down_channels: int = 256,
    batch_norm_momentum: float = 0.01,
    **numbers: float,
) -> SSDNetwork:
    """Build StairNet on SSD300.

    Args:
        maps: The feature maps of VGG16.
        spec: The arguments of every detector.
        top_down_channels: Number of channels of every map of the top-down path.
        batch_norm_momentum: Momentum in the top-down path.
        numbers: As in ``SSDNetwork``.
    """
    path = TopDown(maps.out_channels, top_down_channels, _VGG_STRIDES, batch_norm_momentum)
    return ssd300_vgg16(maps, spec, path, **numbers)
