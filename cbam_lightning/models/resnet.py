"""ResNet (He, Zhang, Ren and Sun, CVPR 2016), its wide and grouped forms, with attention.

Papers: ResNet https://arxiv.org/abs/1512.03385, Wide ResNet https://arxiv.org/abs/1605.07146, ResNeXt
https://arxiv.org/abs/1611.05431. Names of weights and, by default, positions of strides are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py): without attention, state dict and
logits are the same. Initial values are those of CBAM's authors
(https://github.com/Jongchan/attention-module).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from cbam_lightning.attention.fused.block import fuse_end
from cbam_lightning.attention.registry import Placement
from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.models.classifier_network import AttendedModule, ClassifierNetwork

StrideIn = Literal["3x3", "1x1"]
Stem = Literal["imagenet", "cifar", "stride2"]


class BasicBlock(AttendedModule):
    """Two 3x3 convolutions to ``width`` channels, the first with the stride, then attention."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.out_channels = width
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.attention = nn.Identity()
        self.downsample = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU()

    @fuse_end
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        output: Tensor = self.relu(out + self.downsample(x))
        return output


class Bottleneck(AttendedModule):
    """1x1, 3x3 and 1x1 convolution, the last to 4 * ``width`` channels, then attention.

    Args:
        in_channels: Number of channels of the input.
        width: Channels of the first two convolutions, with the default ``groups`` and ``width_per_group``.
        stride: Stride of the block, 1 or 2.
        groups: Groups of the 3x3 convolution.
        width_per_group: Channels of a group per 64 of ``width``: the first two convolutions have
            int(width * width_per_group / 64) * groups, as in torchvision.
        stride_in: The convolution that has the stride.

    Raises:
        UsageError: A group would have no channel.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in: StrideIn = "3x3",
    ) -> None:
        super().__init__()
        group = int(width * (width_per_group / 64))
        check_positive("int(width * width_per_group / 64), the channels of a group,", group)
        inner = group * groups
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, inner, 1, first)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, second, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, self.out_channels, 1)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.attention = nn.Identity()
        self.downsample = _shortcut(in_channels, self.out_channels, stride)
        self.relu = nn.ReLU()

    @fuse_end
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.attention(self.bn3(self.conv3(out)))
        output: Tensor = self.relu(out + self.downsample(x))
        return output


Block = BasicBlock | Bottleneck
_BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
_BlockMaker = Callable[[int, int, int], Block]  # of in_channels, width, stride


class ResNet(ClassifierNetwork):
    """A residual network of any depth, width and number of groups, for large or small images.

    A shortcut that changes the shape is a 1x1 convolution and a BatchNorm, as in torchvision. On CIFAR, He et
    al. pad with zeros instead ("option A"), which needs no parameters.

    Args:
        block: ``basic`` or ``bottleneck``.
        depths: Number of blocks in each stage. Every stage but the first halves H and W.
        stem: ``imagenet``: a 7x7 convolution of stride 2, then a max-pool of stride 2. ``cifar``: a 3x3
            convolution of stride 1. ``stride2``: that convolution with stride 2, a quarter of the work.
        widths: Channels of the 3x3 convolutions in each stage, before ``width_per_group``.
        stem_width: Channels of the stem. Default: the first of ``widths``.
        groups: Groups of a bottleneck's 3x3 convolution.
        width_per_group: Channels of a group per 64 of a stage's width; 4 in ResNeXt 32x4d.
        stride_in: The convolution of a bottleneck that has the stride: ``3x3`` ("v1.5", torchvision and the
            code of CBAM's authors) or the first ``1x1`` ("v1", He et al. and the FLOPs in CBAM's paper).
        attention: One of ``list_attention()``.
        attention_options: What the attention's class accepts besides ``channels``.
        placement: ``block``: on every residual branch, after its last BatchNorm and before the addition.
            ``stage``: after every stage but the last. Default: where the attention's paper puts it.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.

    Raises:
        UsageError: An unknown choice, a number out of range, a bottleneck option with basic blocks, or an
            attention that cannot be built.
    """

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        depths: Sequence[int],
        *,
        stem: Stem = "imagenet",
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_width: int | None = None,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in: StrideIn = "3x3",
        attention: str = "none",
        attention_options: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_choice("block", block, _BLOCKS)
        check_choice("stem", stem, get_args(Stem))
        check_positive("in_channels", in_channels)
        _check_stages(depths, widths)
        self.in_channels = in_channels
        stem_width = widths[0] if stem_width is None else stem_width
        check_positive("stem_width", stem_width)
        self._build_stem(stem, stem_width)
        make = _block_maker(block, groups, width_per_group, stride_in)
        stages = [[width] * depth for width, depth in zip(widths, depths, strict=True)]
        self._add_stages(make, stem_width, stages, _BLOCKS[block].expansion)
        self._complete(num_classes, attention, attention_options, placement)

    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the input of the first stage: (N, in_channels, H, W) to (N, stem_width, h, w)."""
        stemmed: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return stemmed

    def _build_stem(self, stem: str, width: int) -> None:
        large = stem == "imagenet"
        stride = 1 if stem == "cifar" else 2
        self.conv1 = _conv(self.in_channels, width, 7 if large else 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()


def _block_maker(block: str, groups: int, width_per_group: int, stride_in: StrideIn) -> _BlockMaker:
    check_positive("groups", groups)
    check_positive("width_per_group", width_per_group)
    check_choice("stride_in", stride_in, get_args(StrideIn))
    if block == "bottleneck":
        return partial(Bottleneck, groups=groups, width_per_group=width_per_group, stride_in=stride_in)
    if (groups, width_per_group, stride_in) != (1, 64, "3x3"):
        raise UsageError(
            f"groups is {groups}, width_per_group is {width_per_group} and stride_in is {stride_in!r}, but "
            "block is 'basic', and only bottlenecks have these options. Leave them out, or choose another "
            "network."
        )
    return BasicBlock


def _conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def _check_stages(depths: Sequence[int], widths: Sequence[int]) -> None:
    plain = isinstance(depths, Sequence) and isinstance(widths, Sequence)
    if not plain or not depths or len(depths) != len(widths):
        raise UsageError(f"depths is {depths} and widths is {widths}; give both one number for each stage.")
    for depth, width in zip(depths, widths, strict=True):
        check_positive("every one of depths", depth)
        check_positive("every one of widths", width)
