"""Convolutional networks of torchvision, split where their feature maps are pooled.

Source: https://github.com/pytorch/vision/tree/main/torchvision/models.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model_builder

from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.models.classifier_network import check_num_classes
from cbam_lightning.weights.header import one_line

_Step = str | Callable[[Tensor], Tensor]  # the name of a child, or a function


def _flatten(x: Tensor) -> Tensor:
    return x.flatten(1)


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class _Family(NamedTuple):
    """How a family of networks computes logits from images.

    Attributes:
        features: The steps that compute the last feature maps (N, C, h, w) from images.
        pool: The steps from there to the input of the classifier.
        classifier: The child that computes the logits.
    """

    features: Sequence[_Step]
    pool: Sequence[_Step] = ("avgpool", _flatten)
    classifier: str = "classifier"


_GLOBAL_MEAN = (partial(F.adaptive_avg_pool2d, output_size=(1, 1)), _flatten)
_STAGES = ("layer1", "layer2", "layer3", "layer4")
# By the module of torchvision.models that defines them. Each is the forward() of that class, split in two.
_FAMILIES: dict[str, _Family] = {
    "alexnet": _Family(["features"]),
    "convnext": _Family(["features"], ["avgpool"]),
    "densenet": _Family(["features"], [F.relu, *_GLOBAL_MEAN]),
    "efficientnet": _Family(["features"]),
    "mnasnet": _Family(["layers"], [_mean]),
    "mobilenetv2": _Family(["features"], _GLOBAL_MEAN),
    "mobilenetv3": _Family(["features"]),
    "regnet": _Family(["stem", "trunk_output"], classifier="fc"),
    "resnet": _Family(["conv1", "bn1", "relu", "maxpool", *_STAGES], classifier="fc"),
    "shufflenetv2": _Family(["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"], [_mean], "fc"),
    "squeezenet": _Family(["features"], []),
    "vgg": _Family(["features"]),
}


class TorchvisionNetwork(nn.Module):
    """A convolutional classification network of torchvision, with its logits and its state-dict keys.

    ``num_features`` is the input width of the last layer. VGG, AlexNet and MobileNet v3 have further linear
    layers between the feature maps and the last layer.

    Args:
        name: A name of ``torchvision.models``, for example ``densenet121``.
        num_classes: Number of logits; 0 makes the network return the input of its last layer.
        in_channels: Number of channels of the images. If it is not 3, the weights of the first convolution
            are Kaiming normal (fan-out).
        options: Further arguments of torchvision's function, for example ``dropout``.

    Raises:
        UsageError: An unknown network, one that is not convolutional or has auxiliary outputs, an unknown
            option, or a number out of range.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(self, name: str, num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        check_num_classes(num_classes)
        self._family = _FAMILIES[_check_family(name)]
        try:
            # 1 class instead of none, so that there is a last layer, with its kind and width.
            network = torchvision.models.get_model(
                name, weights=None, num_classes=num_classes or 1, **options
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"torchvision/{name} does not take {options}: {one_line(error)}.") from error
        for key, child in network.named_children():
            self.add_module(key, child)
        layers = [(key, m) for key, m in self.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        self._last, last = layers[-1]
        self._is_convolution = isinstance(last, nn.Conv2d)
        self.num_features = last.weight.shape[1]
        self.num_classes = num_classes
        self.in_channels = in_channels
        if in_channels != 3:
            self._renew_first_convolution()
        if not num_classes:
            self.reset_classifier(0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature maps: (N, in_channels, H, W) to (N, C, h, w)."""
        return self._run(self._family.features, x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of feature maps: (N, C, h, w) to (N, num_classes).

        Args:
            features: Output of ``forward_features``.
            pre_logits: Return the input of the last layer, (N, num_features), instead.
        """
        x = self._run(self._family.pool, features)
        head = self.get_submodule(self._family.classifier)
        if not pre_logits:
            x = head(x)
        elif isinstance(head, nn.Sequential):
            last = self.get_classifier()
            for layer in head:
                x = x if layer is last else layer(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (N, in_channels, H, W) to (N, num_classes), or features without classes."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, from features to logits."""
        return self.get_submodule(self._last)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by one with torch's initial values.

        Args:
            num_classes: Number of logits; 0 makes the network return the input of its last layer.

        Raises:
            UsageError: ``num_classes`` is below 0.
        """
        check_num_classes(num_classes)
        self.num_classes = num_classes
        layer: nn.Module = nn.Identity()
        if num_classes and self._is_convolution:
            layer = nn.Conv2d(self.num_features, num_classes, kernel_size=1)
        elif num_classes:
            layer = nn.Linear(self.num_features, num_classes)
        self.set_submodule(self._last, layer.to(next(self.parameters())))

    def _run(self, steps: Sequence[_Step], x: Tensor) -> Tensor:
        for step in steps:
            x = self.get_submodule(step)(x) if isinstance(step, str) else step(x)
        return x

    def _renew_first_convolution(self) -> None:
        conv = next(module for module in self.modules() if isinstance(module, nn.Conv2d))
        conv.in_channels = self.in_channels
        shape = (conv.out_channels, self.in_channels, *conv.kernel_size)
        conv.weight = nn.Parameter(torch.empty(shape).to(conv.weight))
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def torchvision_names() -> list[str]:
    """Return the names that ``TorchvisionNetwork`` takes, sorted."""
    return [name for name, family in _families().items() if family in _FAMILIES]


def unknown_network(library: str, given: str, names: list[str]) -> UsageError:
    """Build the error for an unknown name of a library with too many names to list."""
    close = difflib.get_close_matches(given, names, n=5)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    return UsageError(
        f"no convolutional network of {library} is called {given!r}.{hint} "
        f"`cbam-lightning models '{library}/*'` lists them; names of the hub are not supported."
    )


def _check_family(name: str) -> str:
    family = _families().get(name)
    if family is None:
        raise unknown_network(library="torchvision", given=name, names=torchvision_names())
    if family not in _FAMILIES:
        raise UsageError(
            f"torchvision/{name} is not a convolutional network with one output. "
            f"Choose one of the families {', '.join(_FAMILIES)}."
        )
    return family


def _families() -> dict[str, str]:
    """Return the module that defines each network of torchvision.models, by its name."""
    names = torchvision.models.list_models(module=torchvision.models)
    return {name: get_model_builder(name).__module__.rpartition(".")[2] for name in names}
