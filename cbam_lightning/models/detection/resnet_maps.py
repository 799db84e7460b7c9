"""Backbones that give detectors the feature maps of our ResNets.

Each class keeps the network, without its classifier, as ``body``: its keys are those of the classification
network with the prefix ``body.``.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.stairnet import xavier
from cbam_lightning.models.resnet import ResNet

# Stages of a ResNet for small images whose maps, of stride 1 and 2, are too large for predictions.
_LARGE_STAGES = 2


class CoarseMaps(nn.Module):
    """Maps of stride 4, 8, 16, … of a ResNet for small images, followed by maps of further layers.

    Each further map comes from a 1x1 convolution to half of ``channels`` and a 3x3 convolution of stride 2,
    as in SSD, each with BatchNorm and ReLU, since these detectors start without ImageNet weights.

    Args:
        network: A network without a classifier.
        num_maps: Total number of maps.
        channels: Number of channels of the further maps.

    Raises:
        UsageError: The network has more maps than ``num_maps``, or no map of stride 4.
    """

    def __init__(self, network: ResNet, num_maps: int, channels: int = 128) -> None:
        super().__init__()
        self.body = network
        self.names = list(network.stage_channels)[_LARGE_STAGES:]
        if not 0 < len(self.names) <= num_maps:
            raise UsageError(
                f"the backbone has {len(network.stage_channels)} stages, but the detector uses {num_maps} "
                f"feature maps; give the backbone 3 to {_LARGE_STAGES + num_maps} stages, or change scales."
            )
        self.out_channels = [network.stage_channels[name] for name in self.names]
        self.extra = nn.ModuleList()
        while len(self.out_channels) < num_maps:
            self.extra.append(
                nn.Sequential(
                    Conv2dNormActivation(self.out_channels[-1], channels // 2, kernel_size=1),
                    Conv2dNormActivation(channels // 2, channels, kernel_size=3, stride=2),
                )
            )
            self.out_channels.append(channels)
        xavier(self.extra)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the maps by name, finest first: (N, in_channels, H, W) to (N, C, H / 4, W / 4), …."""
        stages = self.body.forward_stages(x)
        maps = OrderedDict((name, stages[name]) for name in self.names)
        x = maps[self.names[-1]]
        for number, layers in enumerate(self.extra, start=1):
            x = maps[f"extra{number}"] = layers(x)
        return maps


class LastMap(nn.Module):
    """The last map of a network: "C4" for a ResNet without its last stage.

    Args:
        network: A network without a classifier.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.body = network
        self.out_channels = next(reversed(network.stage_channels.values()))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, h, w) of (N, in_channels, H, W)."""
        return self.body.forward_features(x)


class Pyramid(nn.Module):
    """torchvision's feature pyramid (https://arxiv.org/abs/1612.03144) on four stages, plus a pooled map.

    Args:
        network: A network without a classifier.
        channels: Number of channels of every map.

    Raises:
        UsageError: The network does not have four stages.
    """

    def __init__(self, network: ResNet, channels: int) -> None:
        super().__init__()
        self.body = network
        widths = list(network.stage_channels.values())
        if len(widths) != 4:
            raise UsageError(f"the backbone has {len(widths)} stages, but a feature pyramid needs 4.")
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps ``0``, ``1``, … and ``pool``, finest first, (N, channels, h, w) each."""
        stages = self.body.forward_stages(x).values()
        maps: dict[str, Tensor] = self.fpn({str(number): maps for number, maps in enumerate(stages)})
        return maps


def take_last_stage(network: ResNet) -> nn.Module:
    """Remove the last stage from a network and give it stride 1.

    Returns:
        The stage, (R, C, h, w) to (R, num_features, h, w).

    Raises:
        UsageError: The network has only one stage.
    """
    if len(network.stage_channels) == 1:
        raise UsageError("the backbone has 1 stage; C4 needs one for the image and another for the regions.")
    name, _ = network.stage_channels.popitem()
    stage: nn.Sequential = network.get_submodule(name)  # type: ignore[assignment]
    delattr(network, name)
    for layer in stage[0].modules():
        if isinstance(layer, nn.Conv2d):  # of branch and shortcut; attention has stride 1 anyway
            layer.stride = (1, 1)
    return stage


def stage_names(network: ResNet, prefix: str = "backbone.body") -> list[list[str]]:
    """Return the names, inside a detector, of the modules of the stem and of each stage."""
    stages = [[f"{prefix}.conv1", f"{prefix}.bn1"]]
    for stage in network.stage_channels:
        following = [f"attention.{stage}"] if stage in network.attention else []
        stages.append([f"{prefix}.{name}" for name in (stage, *following)])
    return stages
