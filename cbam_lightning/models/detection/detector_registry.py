"""Detectors by name: a table that can be listed without importing torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from cbam_lightning.models.registry import MODELS, Architecture, natural_order

NetworkKind = Literal["classifier", "detector"]


class DetectorArchitecture(NamedTuple):
    """How to build a named detector, and a line for the user.

    Attributes:
        kind: torchvision's class; StairNet is an SSD.
        builder: Module and function of this package, which take the backbone network.
        backbone: The backbone's name for ``create_model``.
        description: What it is.
    """

    kind: Literal["ssd", "faster_rcnn"]
    builder: str
    backbone: str
    description: str

    @property
    def has_attention_in_heads(self) -> bool:
        """Whether ``attention`` is before the prediction heads; else it is in the backbone."""
        return self.kind == "ssd"


def _vgg16_detectors() -> dict[str, DetectorArchitecture]:
    return {
        f"{name}_vgg16": DetectorArchitecture(
            "ssd", f"ssd300.{name}_vgg16", "torchvision/vgg16", f"{title} for images of 300 px on VGG16"
        )
        for name, title in (("ssd300", "SSD"), ("stairnet", "StairNet"))
    }


def _small_detectors(backbone: str) -> dict[str, DetectorArchitecture]:
    return {
        f"{name}_{backbone}": DetectorArchitecture(
            "ssd", f"small_ssd.{name}_resnet", backbone, f"{title} for small images on {backbone}"
        )
        for name, title in (("ssd", "SSD"), ("stairnet", "StairNet"))
    }


def _faster_rcnn_detectors(backbone: str) -> dict[str, DetectorArchitecture]:
    return {
        f"faster_rcnn_{backbone}_{name}": DetectorArchitecture(
            "faster_rcnn", f"faster_rcnn.faster_rcnn_{name}", backbone, f"Faster R-CNN on {backbone}, {title}"
        )
        for name, title in (("c4", "one map of stride 16"), ("fpn", "a feature pyramid"))
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


def network_kind(name: str) -> NetworkKind:
    """Return what a network of this name is for; every name that is not a detector's is a classifier's."""
    return "detector" if name in DETECTORS else "classifier"


def list_detectors(pattern: str = "*") -> list[str]:
    """Return the names that ``create_detector`` knows and ``pattern`` matches, in natural order.

    Args:
        pattern: Shell wildcards, for example ``faster_rcnn_*_c4``.
    """
    return sorted((name for name in DETECTORS if fnmatchcase(name, pattern)), key=natural_order)


def describe_detectors(pattern: str = "*") -> dict[str, str]:
    """Return a line of description for every name of ``list_detectors(pattern)``, in its order."""
    return {name: DETECTORS[name].description for name in list_detectors(pattern)}
