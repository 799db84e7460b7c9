"""VGG16 as the backbone of SSD: torchvision's six maps, with weights of a whole VGG16 for fc6 and fc7."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.vgg import cfgs, make_layers

from cbam_lightning.weights import Checkpoint, load_into


class VGG16Maps(SSDFeatureExtractorVGG):  # type: ignore[misc]
    """conv4_3, fc7, conv8_2, conv9_2, conv10_2 and conv11_2: 38, 19, 10, 5, 3 and 1 positions at 300 px.

    Args:
        layers: The 31 layers of VGG16's ``features``.

    Attributes:
        out_channels: Number of channels of every map.
        stages: Names of the modules with parameters in each of VGG16's five stages, starting at the images.
            As in torchvision, fc6 and fc7 belong to none of them.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(layers, highres=False)
        self.out_channels = [512, 1024, 512, 256, 256, 256]
        trunk = [(f"features.{name}", layer) for name, layer in self.features.named_children()]
        trunk += [(f"extra.0.{name}", layer) for name, layer in self.extra[0].named_children()]
        self.stages: list[list[str]] = [[]]
        for name, layer in trunk:
            if isinstance(layer, nn.MaxPool2d):
                self.stages.append([])
            elif isinstance(layer, nn.Conv2d):
                self.stages[-1].append(name)

    @property
    def fc6_and_fc7(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        """The convolutions that replace VGG16's first two linear layers."""
        first, second = (layer for layer in self.extra[0][-1] if isinstance(layer, nn.Conv2d))
        return first, second


def build_vgg16(in_channels: int, checkpoint: Checkpoint | None, source: str) -> tuple[VGG16Maps, set[int]]:
    """Build the maps, with the values of a VGG16 if there is a checkpoint.

    fc6 and fc7 get every 4th unit, and fc6 every 3rd position, of the first two linear layers of a whole
    VGG16, as in SSD (https://arxiv.org/abs/1512.02325, section 3). With torchvision's
    ``IMAGENET1K_FEATURES``, which lacks these layers, fc6 and fc7 keep Xavier's initial values.

    Args:
        in_channels: Number of channels of the images.
        checkpoint: A checkpoint of ``torchvision/vgg16``.
        source: Name of the checkpoint in error messages.

    Returns:
        The maps, and the ``id`` of every parameter whose value comes from the checkpoint.

    Raises:
        UsageError: The values do not fit.
    """
    layers = make_layers(cfgs["D"])
    if in_channels != 3:
        layers[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):  # as in torchvision.models.vgg16
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    if checkpoint is None:
        return VGG16Maps(layers), set()
    features = {
        key.removeprefix("features."): value
        for key, value in checkpoint.state_dict.items()
        if key.startswith("features.")
    }
    load_into(layers, features, source=source)
    trained = set(map(id, layers.parameters()))
    maps = VGG16Maps(layers)
    if {"classifier.0.weight", "classifier.3.weight"} <= checkpoint.state_dict.keys():
        convolutions = decimate(checkpoint.state_dict)
        for layer, values in zip(maps.fc6_and_fc7, convolutions, strict=True):
            load_into(layer, values, source=source)
            trained |= set(map(id, layer.parameters()))
    return maps, trained


def decimate(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert the two hidden linear layers of a VGG16 to convolutions.

    Returns:
        The weight and bias of fc6, (O / 4, C, 3, 3) of (O, 7 * 7 * C), and of fc7, (P / 4, O / 4, 1, 1) of
        (P, O).
    """
    fc6, fc7 = state_dict["classifier.0.weight"], state_dict["classifier.3.weight"]
    return (
        {
            "weight": fc6.reshape(len(fc6), -1, 7, 7)[::4, :, ::3, ::3],
            "bias": state_dict["classifier.0.bias"][::4],
        },
        {"weight": fc7[::4, ::4, None, None], "bias": state_dict["classifier.3.bias"][::4]},
    )
