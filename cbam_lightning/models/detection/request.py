"""What the user wants of a detector, and what weights say where that is left open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbam_lightning import __version__
from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.backbone import Backbone, check_attention
from cbam_lightning.models.detection.detector_network import Specification
from cbam_lightning.models.detection.detector_registry import DetectorArchitecture
from cbam_lightning.weights import Header

_VOC_CLASSES = 21
# Arguments that a detector's header has among its network_options.
_OF_BACKBONE = ("backbone_attention", "backbone_attention_options", "backbone_options")
# https://docs.pytorch.org/vision/stable/models.html, of pixel values in [0, 1]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Request:
    """The arguments of ``create_detector`` that say what is built; None where one is left open."""

    name: str | None
    attention: str | None
    attention_options: Mapping[str, Any] | None
    num_classes: int | None
    class_names: Sequence[str] | None
    in_channels: int | None
    backbone_weights: str | Path | None
    backbone_attention: str | None
    backbone_attention_options: Mapping[str, Any] | None
    backbone_options: Mapping[str, Any] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    options: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return 3 if self.in_channels is None else self.in_channels

    def check(self, architecture: DetectorArchitecture) -> None:
        """Refuse what no detector or not this one can have.

        Raises:
            UsageError: Such a value.
        """
        check_positive("in_channels", self.channels)
        classes = self.num_classes
        if classes is not None and (not isinstance(classes, int) or classes < 2):
            message = f"num_classes is {classes!r}; give the number of classes and 1 for the background."
            raise UsageError(message)
        names, known = self.class_names, classes or _VOC_CLASSES
        if names is not None and len(names) + 1 != known:
            message = (
                f"there are {len(names)} class_names and num_classes is {known}; give a name for each class "
                "but the background."
            )
            raise UsageError(message)
        given = self.backbone_attention is not None or self.backbone_attention_options
        if given and not architecture.has_attention_in_heads:
            message = (
                f"the attention of {self.name} is in its backbone; give attention and attention_options, and "
                "leave backbone_attention and backbone_attention_options out."
            )
            raise UsageError(message)

    def for_backbone(self, architecture: DetectorArchitecture) -> dict[str, Any]:
        """Return the arguments of ``build_backbone`` besides the name."""
        in_heads = architecture.has_attention_in_heads
        return {
            "attention": self.backbone_attention if in_heads else self.attention,
            "attention_options": self.backbone_attention_options if in_heads else self.attention_options,
            "options": self.backbone_options,
            "in_channels": self.channels,
            "weights": self.backbone_weights,
        }

    def specify(self, architecture: DetectorArchitecture, backbone: Backbone) -> Specification:
        """Return what the detector is built with.

        Raises:
            UsageError: Mean or std do not fit the channels.
        """
        in_heads = architecture.has_attention_in_heads
        mean = self.mean or (backbone.header and backbone.header.mean)
        std = self.std or (backbone.header and backbone.header.std)
        colour = self.channels == len(_IMAGENET_MEAN)
        spec = Specification(
            num_classes=_VOC_CLASSES if self.num_classes is None else self.num_classes,
            in_channels=self.channels,
            attention=(self.attention or "none") if in_heads else "none",
            attention_options=(self.attention_options or {}) if in_heads else {},
            mean=tuple(mean or (_IMAGENET_MEAN if colour else (0.5,) * self.channels)),
            std=tuple(std or (_IMAGENET_STD if colour else (0.5,) * self.channels)),
        )
        fits = len(spec.mean) == len(spec.std) == self.channels and all(value > 0 for value in spec.std)
        if not fits:
            message = (
                f"mean is {spec.mean} and std is {spec.std}; give {self.channels} numbers each, one for each "
                "channel, std above 0."
            )
            raise UsageError(message)
        return spec

    def describe(self, architecture: DetectorArchitecture, backbone: Backbone, spec: Specification) -> Header:
        """Return what ``complete`` needs to ask for the same detector again.

        As in every header, the classes are those that have names: the background is none of them.
        """
        in_heads = architecture.has_attention_in_heads
        inside = backbone.names
        options = {
            "backbone_options": inside["network_options"],
            "backbone_attention": inside["attention"] if in_heads and inside["attention"] != "none" else None,
            "backbone_attention_options": _lasting(inside["attention_options"]) if in_heads else None,
        }
        return Header(
            network=str(self.name),
            attention=spec.attention if in_heads else inside["attention"],
            attention_options=_lasting(spec.attention_options if in_heads else inside["attention_options"]),
            num_classes=spec.num_classes - 1,
            class_names=None if self.class_names is None else tuple(self.class_names),
            in_channels=spec.in_channels,
            network_options={**{name: value for name, value in options.items() if value}, **self.options},
            mean=tuple(spec.mean),
            std=tuple(spec.std),
            version=__version__,
        )


def complete(request: Request, header: Header, source: str) -> Request:
    """Fill in what was left open with what the header of a whole detector says.

    Args:
        request: What the user wants.
        header: As ``Request.describe`` makes it.
        source: What to call the detector's file.

    Raises:
        UsageError: The user wants something else, or gives weights of a backbone, too.
    """
    if request.backbone_weights is not None:
        message = f"{source} is a whole detector with its backbone; leave backbone_weights out."
        raise UsageError(message)
    if request.name not in (None, header.network):
        message = f"{source} is a {header.network}, not a {request.name}; leave the name out."
        raise UsageError(message)
    check_attention(header, request.attention, request.attention_options or {}, source)
    options = dict(header.network_options)
    backbone = {name: options.pop(name) for name in _OF_BACKBONE if name in options}
    for name in _OF_BACKBONE:
        asked = getattr(request, name)
        if asked and _plain(asked) != _plain(backbone.get(name, "none")):
            message = (
                f"the backbone of {source} was built with {name} {backbone.get(name)!r}, not {asked!r}; "
                "leave it out."
            )
            raise UsageError(message)
    theirs = {
        "name": header.network,
        "num_classes": header.num_classes + 1,
        "in_channels": header.in_channels,
        "mean": header.mean,
        "std": header.std,
        "class_names": header.class_names if request.num_classes in (None, header.num_classes + 1) else None,
        **backbone,
    }
    if header.attention != "none":
        both = {**header.attention_options, **(request.attention_options or {})}
        request = replace(request, attention=header.attention, attention_options=both)
    missing = {name: value for name, value in theirs.items() if getattr(request, name, value) is None}
    return replace(request, **missing, options={**options, **request.options})


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # a header knows lists only


def _lasting(attention_options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out which implementation runs, which is a matter of the machine."""
    return {name: value for name, value in attention_options.items() if name != "implementation"}
