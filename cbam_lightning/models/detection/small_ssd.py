"""SSD and StairNet for small images, on a ResNet without ImageNet weights.

The recipe is SSD's; maps, default boxes and sizes are ours, for training on a CPU. The backbone may have its
own attention, in addition to that before the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cbam_lightning.checks import is_finite
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.detector_network import Specification
from cbam_lightning.models.detection.precision import DefaultBoxes
from cbam_lightning.models.detection.resnet_maps import CoarseMaps, stage_names
from cbam_lightning.models.detection.ssd import NUMBERS, SSDNetwork
from cbam_lightning.models.detection.stairnet import TopDown
from cbam_lightning.models.resnet import ResNet

__all__ = ["NUMBERS", "ssd_resnet", "stairnet_resnet"]

# From a seventh of the image to the whole image, in steps of at most 2.
_SMALL_SCALES = (0.14, 0.28, 0.5, 0.75, 1.0)


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
        network: A network without a classifier.
        spec: The arguments of every detector.
        size_px: Height and width to which images are resized.
        scales: Side of the square default box as a fraction of the image, for every map starting at stride 4,
            and one more as the upper end. There is one map fewer than scales.
        aspect_ratios: Aspect ratios of the other default boxes at a position, each upright and lying.
        numbers: As in ``SSDNetwork``.
    """
    maps, boxes = _maps_and_boxes(network, scales, aspect_ratios)
    return SSDNetwork(maps, stage_names(network), boxes, size_px, spec, None, **numbers)


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
        network: A network without a classifier.
        spec: The arguments of every detector.
        size_px: As in ``ssd_resnet``.
        scales: As in ``ssd_resnet``.
        aspect_ratios: As in ``ssd_resnet``.
        top_down_channels: Number of channels of every map of the top-down path.
        batch_norm_momentum: Momentum in the top-down path. This is torch's default, since StairNet's 0.01
            needs hundreds of steps until the running statistics are usable.
        numbers: As in ``SSDNetwork``.
    """
    maps, boxes = _maps_and_boxes(network, scales, aspect_ratios)
    strides = [2] * (len(maps.out_channels) - 1)
    path = TopDown(maps.out_channels, top_down_channels, strides, batch_norm_momentum)
    return SSDNetwork(maps, stage_names(network), boxes, size_px, spec, path, **numbers)


def _maps_and_boxes(
    network: ResNet, scales: Sequence[float], aspect_ratios: Sequence[float]
) -> tuple[CoarseMaps, DefaultBoxes]:
    rising = _are_numbers(scales) and all(0 < small < large for small, large in pairwise(scales))
    if not rising or len(scales) < 2:
        raise UsageError(f"scales is {scales}; give 2 or more ascending fractions, such as {_SMALL_SCALES}.")
    if not _are_numbers(aspect_ratios) or not all(ratio > 1 for ratio in aspect_ratios):
        raise UsageError(f"aspect_ratios is {aspect_ratios}; give numbers above 1, such as 2 and 3.")
    maps = CoarseMaps(network, len(scales) - 1)
    return maps, DefaultBoxes([list(aspect_ratios)] * len(maps.out_channels), scales=list(scales))


def _are_numbers(values: Sequence[float]) -> bool:
    return isinstance(values, list | tuple) and all(map(is_finite, values))
