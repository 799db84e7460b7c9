"""Detectors by name: a table that can be listed without importing torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from cbam_lightning.models.registry import MODELS, natural_order

NetworkKind = Literal["classifier", "detector"]


class DetectorArchitecture(NamedTuple):
    """How to build a named detector.

    Attributes:
        kind: The class of torchvision; StairNet is an SSD.
        builder: Module and function that build it on a backbone.
        backbone: Name of the backbone for ``create_model``.
        description: One line for the user.
    """

    kind: Literal["ssd", "faster_rcnn"]
    builder: str
    backbone: str
    description: str

    @property
    def has_attention_in_heads(self) -> bool:
        """Whether ``attention`` precedes the prediction heads; otherwise it is in the backbone."""
        return self.kind == "ssd"


def _detectors() -> dict[str, DetectorArchitecture]:
    detectors = {}
    for name, title in (("ssd300", "SSD"), ("stairnet", "StairNet")):
        detectors[f"{name}_vgg16"] = DetectorArchitecture(
            "ssd", f"ssd300.{name}_vgg16", "torchvision/vgg16", f"{title} for images of 300 px on VGG16"
        )
    resnets = {name: network for name, network in MODELS.items() if network.family == "resnet.ResNet"}
    for backbone, network in resnets.items():
        if network.options.get("stem") == "cifar":
            for name, title in (("ssd", "SSD"), ("stairnet", "StairNet")):
                detectors[f"{name}_{backbone}"] = DetectorArchitecture(
                    "ssd", f"small_ssd.{name}_resnet", backbone, f"{title} for small images on {backbone}"
                )
        else:
            for name, title in (("c4", "one map of stride 16"), ("fpn", "a feature pyramid")):
                description = f"Faster R-CNN on {backbone}, {title}"
                detectors[f"faster_rcnn_{backbone}_{name}"] = DetectorArchitecture(
                    "faster_rcnn", f"faster_rcnn.faster_rcnn_{name}", backbone, description
                )
    return detectors


DETECTORS = _detectors()


def network_kind(name: str) -> NetworkKind:
    """Return what a network of this name is for; every name that is not a detector's is a classifier's."""
    return "detector" if name in DETECTORS else "classifier"


def list_detectors(pattern: str = "*") -> list[str]:
    """Return the names of ``create_detector`` that match a pattern, in natural order.

    Args:
        pattern: Shell wildcards, for example ``faster_rcnn_*_c4``.
    """
    return sorted((name for name in DETECTORS if fnmatchcase(name, pattern)), key=natural_order)


def describe_detectors(pattern: str = "*") -> dict[str, str]:
    """Return a one-line description for every name of ``list_detectors(pattern)``, in its order."""
    return {name: DETECTORS[name].description for name in list_detectors(pattern)}
