"""SSD (Liu et al., ECCV 2016) and StairNet (Woo et al., WACV 2018), with attention before every head.

Papers: SSD https://arxiv.org/abs/1512.02325, StairNet https://arxiv.org/abs/1709.05788, CBAM section 5.4
(https://arxiv.org/abs/1807.06521). Losses, matching and suppression are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/detection/ssd.py).

CBAM's paper puts the attention "right before every classifier". Here that is one module for each scale, on
the maps that the scale's box and class convolutions share. With it, StairNet has the paper's numbers of
parameters (21 classes): SSD300 26,515,936, StairNet 32,005,600, with SE 32,056,384, with CBAM 32,056,984.
All parameters count, weights and biases of plain BatchNorms included.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD, SSDHead

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.gate import at_least_float32
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.network import DetectorNetwork, Specification, numbers_of
from cbam_lightning.models.detection.precision import DefaultBoxes
from cbam_lightning.models.detection.resnet_maps import CoarseMaps, stage_names
from cbam_lightning.models.detection.stairnet import TopDown
from cbam_lightning.models.detection.vgg import VGG16Maps
from cbam_lightning.models.resnet import ResNet

# The recipe of SSD is torchvision's: scores of at least 0.01, suppression at an overlap of 0.45, 200
# detections, matched from an overlap of 0.5 on, 3 negatives to a positive. The weights of the offsets,
# (10, 10, 5, 5), are SSD's variances of 0.1 and 0.2.
NUMBERS = numbers_of(SSD)

# SSD300 on VOC, https://github.com/weiliu89/caffe/blob/ssd/examples/ssd/ssd_pascal.py: min_size 30, 60, 111,
# 162, 213, 264 and max_size 315 of 300 px. Ratios 2 and 3 on conv4_3, too, as CBAM's 26.5 million ask for.
_VOC_SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
_VOC_RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VOC_STEPS_PX = (8, 16, 32, 64, 100, 300)
# From conv10_2's 3 positions to conv11_2's 1 without stride, see ``TopDown``.
_VGG_STRIDES = (2, 2, 2, 2, 1)

# From a seventh of the image to all of it, in steps of 2 or less.
_SMALL_SCALES = (0.14, 0.28, 0.5, 0.75, 1.0)


class AttendedHead(SSDHead):  # type: ignore[misc]
    """Top-down path or none, attention on every map, then SSD's convolutions for classes and boxes.

    Args:
        in_channels: Number of channels of every map.
        num_anchors: Default boxes at a position of every map.
        spec: Number of classes and attention.
        top_down: StairNet's path.
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
        # last, and not touched by the loops that initialise the convolutions
        self.attention = nn.ModuleList(
            create_attention(spec.attention, number, **spec.attention_options) for number in channels
        )

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Return ``bbox_regression``, (N, A, 4), and ``cls_logits``, (N, A, num_classes), in float32."""
        maps = [attend(x) for attend, x in zip(self.attention, self.top_down(x), strict=True)]
        return {name: at_least_float32(value) for name, value in super().forward(maps).items()}


class SSDNetwork(DetectorNetwork, SSD):  # type: ignore[misc]
    """torchvision's SSD with the head above.

    Args:
        backbone: Images to an ordered dictionary of maps, with their ``out_channels``.
        stages: As in ``DetectorNetwork``.
        boxes: The default boxes.
        size_px: Height and width that images are resized to.
        spec: What every detector has.
        top_down: StairNet's path.
        numbers: Those of ``NUMBERS`` that are not torchvision's.
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
        super().__init__(
            backbone,
            boxes,
            (size_px, size_px),
            spec.num_classes,
            image_mean=list(spec.mean),
            image_std=list(spec.std),
            head=AttendedHead(backbone.out_channels, boxes.num_anchors_per_location(), spec, top_down),
            **numbers,
        )
        self.in_channels = spec.in_channels
        self.size_px = size_px
        self.stages = stages


def ssd300_vgg16(maps: VGG16Maps, spec: Specification, **numbers: float) -> SSDNetwork:
    """Build SSD300 as it is for VOC.

    Args:
        maps: Of VGG16.
        spec: What every detector has.
        numbers: As in ``SSDNetwork``.
    """
    return _ssd300(maps, spec, None, numbers)


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
        maps: Of VGG16.
        spec: What every detector has.
        top_down_channels: Of every map that is predicted from.
        batch_norm_momentum: Of the top-down path.
        numbers: As in ``SSDNetwork``.
    """
    path = TopDown(maps.out_channels, top_down_channels, _VGG_STRIDES, batch_norm_momentum)
    return _ssd300(maps, spec, path, numbers)


def ssd_resnet(
    network: ResNet,
    spec: Specification,
    *,
    size_px: int = 112,
    scales: Sequence[float] = _SMALL_SCALES,
    aspect_ratios: Sequence[float] = (2, 3),
    **numbers: float,
) -> SSDNetwork:
    """Build a small SSD on a ResNet for small images.

    Args:
        network: Without a classifier.
        spec: What every detector has.
        size_px: Height and width that images are resized to.
        scales: Side of the square default box on every map as a fraction of the image, from the map of
            stride 4 on, and one more as an end. There is one map less than scales.
        aspect_ratios: Of the further default boxes at a position, each upright and lying.
        numbers: As in ``SSDNetwork``.
    """
    return _small(network, spec, size_px, scales, aspect_ratios, None, numbers)


def stairnet_resnet(
    network: ResNet,
    spec: Specification,
    *,
    size_px: int = 112,
    scales: Sequence[float] = _SMALL_SCALES,
    aspect_ratios: Sequence[float] = (2, 3),
    top_down_channels: int = 64,
    batch_norm_momentum: float = 0.1,
    **numbers: float,
) -> SSDNetwork:
    """Build a small StairNet on a ResNet for small images.

    Args:
        network: Without a classifier.
        spec: What every detector has.
        size_px: As in ``ssd_resnet``.
        scales: As in ``ssd_resnet``.
        aspect_ratios: As in ``ssd_resnet``.
        top_down_channels: Of every map that is predicted from.
        batch_norm_momentum: Of the top-down path; torch's default, since StairNet's 0.01 needs hundreds of
            steps until the running statistics are of use.
        numbers: As in ``SSDNetwork``.
    """
    path = (top_down_channels, batch_norm_momentum)
    return _small(network, spec, size_px, scales, aspect_ratios, path, numbers)


def _ssd300(
    maps: VGG16Maps, spec: Specification, top_down: TopDown | None, numbers: dict[str, float]
) -> SSDNetwork:
    stages = [[f"backbone.{name}" for name in stage] for stage in maps.stages]
    boxes = DefaultBoxes(
        [list(ratios) for ratios in _VOC_RATIOS], scales=list(_VOC_SCALES), steps=list(_VOC_STEPS_PX)
    )
    return SSDNetwork(maps, stages, boxes, 300, spec, top_down, **numbers)


def _small(
    network: ResNet,
    spec: Specification,
    size_px: int,
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    top_down: tuple[int, float] | None,
    numbers: dict[str, float],
) -> SSDNetwork:
    _check_boxes(scales, aspect_ratios)
    maps = CoarseMaps(network, len(scales) - 1)
    number = len(maps.out_channels)
    boxes = DefaultBoxes([list(aspect_ratios)] * number, scales=list(scales))
    path = None
    if top_down is not None:
        channels, momentum = top_down
        path = TopDown(maps.out_channels, channels, [2] * (number - 1), momentum)
    return SSDNetwork(maps, stage_names(network), boxes, size_px, spec, path, **numbers)


def _check_boxes(scales: Sequence[float], aspect_ratios: Sequence[float]) -> None:
    rising = _are_numbers(scales) and all(0 < small < large for small, large in pairwise(scales))
    if not rising or len(scales) < 2:
        message = (
            f"scales is {scales}; give 2 or more rising fractions of the image, such as {_SMALL_SCALES}."
        )
        raise UsageError(message)
    if not _are_numbers(aspect_ratios) or not all(ratio > 1 for ratio in aspect_ratios):
        message = f"aspect_ratios is {aspect_ratios}; give numbers above 1, such as 2 and 3."
        raise UsageError(message)


def _are_numbers(values: Sequence[float]) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
