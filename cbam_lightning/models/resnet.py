"""ResNet (He, Zhang, Ren and Sun, CVPR 2016), with attention on every residual branch.

Paper: https://arxiv.org/abs/1512.03385. Names of the weights and places of the strides are torchvision's
(https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py): without attention, state dict
and logits are the same. A bottleneck strides in its 3x3 convolution ("v1.5"), not in its first 1x1 as in
the paper. Initial values are those of CBAM's authors (https://github.com/Jongchan/attention-module).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from cbam_lightning.attention import create_attention
from cbam_lightning.attention.gate import check_choice, check_positive
from cbam_lightning.errors import UsageError


class Block(nn.Module, ABC):
    """ReLU of attention(residual) + shortcut; the attention is the identity until the network replaces it."""

    out_channels: int
    attention: nn.Module
    downsample: nn.Module
    relu: nn.Module

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Return the branch's output, up to and with its last BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        output: Tensor = self.relu(self.attention(self.residual(x)) + self.downsample(x))
        return output


class BasicBlock(Block):
    """Two 3x3 convolutions to ``width`` channels, the first with the stride."""

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

    def residual(self, x: Tensor) -> Tensor:
        """Return the branch's output, up to and with its last BatchNorm."""
        x = self.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(x))
        return residual


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolution to ``width``, ``width`` and 4 * ``width`` channels, stride in the 3x3."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, self.out_channels, 1)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.attention = nn.Identity()
        self.downsample = _shortcut(in_channels, self.out_channels, stride)
        self.relu = nn.ReLU()

    def residual(self, x: Tensor) -> Tensor:
        """Return the branch's output, up to and with its last BatchNorm."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        residual: Tensor = self.bn3(self.conv3(x))
        return residual


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network of any depth and width, for large or for small images.

    A shortcut that changes the shape is a 1x1 convolution and a BatchNorm, as in torchvision. He et al. pad
    with zeros on CIFAR instead ("option A"), which needs no parameters.

    The backbone is complete, with its initial values, before the attention is made and takes its place in the
    blocks: after the same ``torch.manual_seed`` it starts from the same weights with every attention.

    Args:
        block: ``basic`` or ``bottleneck``.
        depths: Number of blocks in each stage. Every stage but the first halves H and W.
        stem: ``imagenet``: a 7x7 convolution of stride 2, then a max-pool of stride 2. ``cifar``: a 3x3
            convolution of stride 1.
        widths: Channels of the 3x3 convolutions in each stage; the stem has those of the first.
        attention: One of ``list_attention()``; on every residual branch, after its last BatchNorm and before
            the addition.
        attention_options: What the attention's class accepts besides ``channels``.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.

    Raises:
        UsageError: An unknown choice, a number out of range, or an attention that cannot be made.
    """

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        depths: Sequence[int],
        *,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        widths: Sequence[int] = (64, 128, 256, 512),
        attention: str = "none",
        attention_options: Mapping[str, Any] | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_choice("block", block, _BLOCKS)
        check_choice("stem", stem, ("imagenet", "cifar"))
        check_positive("in_channels", in_channels)
        _check_stages(depths, widths)
        self.in_channels = in_channels
        self.num_features = widths[-1] * _BLOCKS[block].expansion
        self._build_stem(stem, widths[0])
        self._build_stages(block, depths, widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, Block):
                module.attention = create_attention(
                    attention, module.out_channels, **(attention_options or {})
                )

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature maps: (N, in_channels, H, W) to (N, num_features, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stage_names:
            x = getattr(self, stage)(x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of feature maps: (N, num_features, h, w) to (N, num_classes).

        Args:
            features: What ``forward_features`` returned.
            pre_logits: Return the mean over h and w, (N, num_features), instead.
        """
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, in_channels, H, W) to (N, num_classes), or features without classes."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, from features to logits."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one with fresh initial values.

        Args:
            num_classes: Number of logits; 0 makes the network return its pooled features, (N, num_features).

        Raises:
            UsageError: ``num_classes`` is below 0.
        """
        if not isinstance(num_classes, int) or num_classes < 0:
            message = f"num_classes is {num_classes!r}; give the number of classes, or 0 for the features."
            raise UsageError(message)
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes).to(self.conv1.weight)
            nn.init.kaiming_normal_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def _build_stem(self, stem: str, width: int) -> None:
        large = stem == "imagenet"
        self.conv1 = _conv(self.in_channels, width, 7 if large else 3, 2 if large else 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()

    def _build_stages(self, block: str, depths: Sequence[int], widths: Sequence[int]) -> None:
        self.stage_names = [f"layer{number}" for number in range(1, len(depths) + 1)]
        in_channels = widths[0]
        for name, depth, width in zip(self.stage_names, depths, widths, strict=True):
            stage = nn.Sequential()
            for index in range(depth):
                stride = 2 if index == 0 and name != "layer1" else 1
                stage.append(_BLOCKS[block](in_channels, width, stride))
                in_channels = width * _BLOCKS[block].expansion
            self.add_module(name, stage)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def _check_stages(depths: Sequence[int], widths: Sequence[int]) -> None:
    plain = isinstance(depths, Sequence) and isinstance(widths, Sequence)
    if not plain or not depths or len(depths) != len(widths):
        message = f"depths is {depths} and widths is {widths}; give both one number for each stage."
        raise UsageError(message)
    for depth, width in zip(depths, widths, strict=True):
        check_positive("every one of depths", depth)
        check_positive("every one of widths", width)
