"""Networks by name: a table that can be listed without importing torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """How to build a named network: a class of this package, its arguments, and a line for the user."""

    family: str
    options: Mapping[str, Any]
    description: str


def _resnet(block: str, *depths: int, **options: Any) -> Architecture:
    images = "small images (CIFAR)" if options.get("stem") == "cifar" else "large images (ImageNet)"
    stages = "-".join(map(str, depths))
    description = f"ResNet for {images}: {stages} {block} blocks"
    return Architecture("resnet.ResNet", {"block": block, "depths": depths, **options}, description)


_CIFAR_WIDTHS = (16, 32, 64)  # https://arxiv.org/abs/1512.03385, section 4.2

MODELS: dict[str, Architecture] = {
    "resnet18": _resnet("basic", 2, 2, 2, 2),
    "resnet34": _resnet("basic", 3, 4, 6, 3),
    "resnet50": _resnet("bottleneck", 3, 4, 6, 3),
    "resnet101": _resnet("bottleneck", 3, 4, 23, 3),
    "resnet152": _resnet("bottleneck", 3, 8, 36, 3),
    "resnet18_cifar": _resnet("basic", 2, 2, 2, 2, stem="cifar"),
    "resnet34_cifar": _resnet("basic", 3, 4, 6, 3, stem="cifar"),
    "resnet50_cifar": _resnet("bottleneck", 3, 4, 6, 3, stem="cifar"),
    "resnet101_cifar": _resnet("bottleneck", 3, 4, 23, 3, stem="cifar"),
    "resnet20": _resnet("basic", 3, 3, 3, stem="cifar", widths=_CIFAR_WIDTHS),
    "resnet32": _resnet("basic", 5, 5, 5, stem="cifar", widths=_CIFAR_WIDTHS),
    "resnet44": _resnet("basic", 7, 7, 7, stem="cifar", widths=_CIFAR_WIDTHS),
    "resnet56": _resnet("basic", 9, 9, 9, stem="cifar", widths=_CIFAR_WIDTHS),
    "resnet110": _resnet("basic", 18, 18, 18, stem="cifar", widths=_CIFAR_WIDTHS),
}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that ``create_model`` knows and ``pattern`` matches, in natural order.

    Args:
        pattern: Shell wildcards, for example ``resnet*_cifar``.
    """
    return sorted((name for name in MODELS if fnmatchcase(name, pattern)), key=_natural_order)


def describe_models(pattern: str = "*") -> dict[str, str]:
    """Return a line of description for every name of ``list_models(pattern)``, in its order."""
    return {name: MODELS[name].description for name in list_models(pattern)}


def _natural_order(name: str) -> list[str | int]:
    """Split digits off, so that resnet18 comes before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
