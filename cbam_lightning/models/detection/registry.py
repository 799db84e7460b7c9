"""Detectors by name: a table that can be listed without importing torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from cbam_lightning.models.registry import MODELS, Architecture, natural_order


class DetectorArchitecture(NamedTuple):
    """How to build a named detector, and a line for the user.

    Attributes:
        builder: Module and function of this package, which take the backbone network.
        backbone: The backbone's name for ``create_model``.
        attention_in: Where ``attention`` goes: before the prediction heads, or into the backbone.
        description: What it is.
    """

    builder: str
    backbone: str
    attention_in: Literal["heads", "backbone"]
    description: str

    @property
    def kind(self) -> str:
        """``ssd``, StairNet included, or ``faster_rcnn``: the module of the builder."""
        return self.builder.partition(".")[0]


def _vgg16_detectors() -> dict[str, DetectorArchitecture]:
    return {
        "ssd300_vgg16": DetectorArchitecture(
            "ssd.ssd300_vgg16", "torchvision/vgg16", "heads", "SSD300 on VGG16, attention before every head"
        ),
        "stairnet_vgg16": DetectorArchitecture(
            "ssd.stairnet_vgg16",
            "torchvision/vgg16",
            "heads",
            "StairNet on VGG16, attention before every head",
        ),
    }


def _small_detectors(backbone: str) -> dict[str, DetectorArchitecture]:
    return {
        f"{kind}_{backbone}": DetectorArchitecture(
            f"ssd.{kind}_resnet", backbone, "heads", f"{title} for small images on {backbone}"
        )
        for kind, title in (("ssd", "SSD"), ("stairnet", "StairNet"))
    }


def _faster_rcnn_detectors(backbone: str) -> dict[str, DetectorArchitecture]:
    return {
        f"faster_rcnn_{backbone}_{kind}": DetectorArchitecture(
            f"faster_rcnn.faster_rcnn_{kind}", backbone, "backbone", f"Faster R-CNN on {backbone}, {title}"
        )
        for kind, title in (("c4", "one map of stride 16"), ("fpn", "a feature pyramid"))
    }


def _of_resnets() -> dict[str, DetectorArchitecture]:
    detectors: dict[str, DetectorArchitecture] = {}
    for name, architecture in MODELS.items():
        if architecture.family == "resnet.ResNet":
            build = _small_detectors if _is_for_small_images(architecture) else _faster_rcnn_detectors
            detectors |= build(name)
    return detectors


def _is_for_small_images(architecture: Architecture) -> bool:
    return architecture.options.get("stem") == "cifar"


DETECTORS: dict[str, DetectorArchitecture] = _vgg16_detectors() | _of_resnets()


def list_detectors(pattern: str = "*") -> list[str]:
    """Return the names that ``create_detector`` knows and ``pattern`` matches, in natural order.

    Args:
        pattern: Shell wildcards, for example ``faster_rcnn_*_c4``.
    """
    return sorted((name for name in DETECTORS if fnmatchcase(name, pattern)), key=natural_order)


def describe_detectors(pattern: str = "*") -> dict[str, str]:
    """Return a line of description for every name of ``list_detectors(pattern)``, in its order."""
    return {name: DETECTORS[name].description for name in list_detectors(pattern)}
