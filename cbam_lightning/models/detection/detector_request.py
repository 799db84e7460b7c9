"""The arguments of ``create_detector``: checks, defaults, and what a detector's header adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbam_lightning import __version__
from cbam_lightning.attention.registry import option_defaults
from cbam_lightning.checks import check_positive, is_finite, is_whole
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.detection.detector_network import Specification
from cbam_lightning.models.detection.detector_registry import DETECTORS, DetectorArchitecture
from cbam_lightning.models.factory import BuiltNetwork
from cbam_lightning.weights import Header
from cbam_lightning.weights.compatibility import without_implementation

_VOC_CLASSES = 21
# Arguments that are among the network_options in a detector's header.
_BACKBONE_ARGUMENTS = ("backbone_attention", "backbone_attention_options", "backbone_options")
# For pixel values in [0, 1]: https://docs.pytorch.org/vision/stable/models.html
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DetectorRequest:
    """The arguments of ``create_detector`` that describe the detector; ``None`` for those left open."""

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
    def architecture(self) -> DetectorArchitecture:
        """The named detector.

        Raises:
            UsageError: The name is missing or unknown.
        """
        if self.name is None:
            raise UsageError(
                "no detector and no weights were given; choose one of `cbam-lightning models`, such as "
                "stairnet_resnet20, with --model.network."
            )
        if self.name not in DETECTORS:
            raise unknown_name(kind="detector", given=self.name, allowed=DETECTORS)
        return DETECTORS[self.name]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return 3 if self.in_channels is None else self.in_channels

    @property
    def classes(self) -> int:
        """Number of classes, including the background."""
        return _VOC_CLASSES if self.num_classes is None else self.num_classes

    def check(self) -> None:
        """Refuse values that no detector, or not this one, can have.

        Raises:
            UsageError: There is such a value.
        """
        check_positive("in_channels", self.channels)
        if not is_whole(self.classes) or self.classes < 2:
            raise UsageError(f"num_classes is {self.classes!r}; give the number of classes + 1 (background).")
        if self.class_names is not None and len(self.class_names) + 1 != self.classes:
            raise UsageError(
                f"there are {len(self.class_names)} class_names but num_classes is {self.classes}; give a "
                "name for each class except the background."
            )
        has_backbone_attention = self.backbone_attention is not None or self.backbone_attention_options
        if has_backbone_attention and not self.architecture.has_attention_in_heads:
            raise UsageError(
                f"the attention of {self.name} is in its backbone; use attention and attention_options, and "
                "omit backbone_attention and backbone_attention_options."
            )

    def specify(self, backbone: BuiltNetwork) -> Specification:
        """Return the specification from which the detector is built on a backbone.

        Raises:
            UsageError: The mean or std do not fit the channels.
        """
        in_heads = self.architecture.has_attention_in_heads
        mean = self.mean or (backbone.header and backbone.header.mean)
        std = self.std or (backbone.header and backbone.header.std)
        colour = self.channels == len(_IMAGENET_MEAN)
        spec = Specification(
            num_classes=self.classes,
            in_channels=self.channels,
            attention="none" if self.attention is None or not in_heads else self.attention,
            attention_options=(self.attention_options or {}) if in_heads else {},
            mean=tuple(mean or (_IMAGENET_MEAN if colour else (0.5,) * self.channels)),
            std=tuple(std or (_IMAGENET_STD if colour else (0.5,) * self.channels)),
        )
        is_known = all(map(is_finite, (*spec.mean, *spec.std))) and all(value > 0 for value in spec.std)
        if not len(spec.mean) == len(spec.std) == self.channels or not is_known:
            raise UsageError(
                f"mean is {spec.mean} and std is {spec.std}; give {self.channels} numbers each, one per "
                "channel, std above 0."
            )
        return spec

    def describe(self, backbone: BuiltNetwork, spec: Specification) -> Header:
        """Return the header from which ``complete`` restores this request.

        As in every header, the classes are those with names, without the background.
        """
        names = backbone.names
        options = {"backbone_options": names["network_options"], **self.options}
        attention, attention_options = names["attention"], names["attention_options"]
        if self.architecture.has_attention_in_heads:
            options["backbone_attention"] = None if attention == "none" else attention
            options["backbone_attention_options"] = without_implementation(attention_options)
            attention, attention_options = spec.attention, spec.attention_options
        empty = [name for name in _BACKBONE_ARGUMENTS if not options.get(name)]
        return Header(
            network=str(self.name),
            attention=attention,
            attention_options=without_implementation(attention_options),
            num_classes=spec.num_classes - 1,
            class_names=None if self.class_names is None else tuple(self.class_names),
            in_channels=spec.in_channels,
            network_options={name: value for name, value in options.items() if name not in empty},
            mean=tuple(spec.mean),
            std=tuple(spec.std),
            version=__version__,
        )

    def complete(self, header: Header, source: str) -> DetectorRequest:
        """Fill in open arguments from the header of a whole detector.

        Args:
            header: A header from ``describe``.
            source: Name of the detector's file in error messages.

        Raises:
            UsageError: The header is not a detector's, an argument contradicts it, or there are weights of a
                backbone as well.
        """
        if header.network not in DETECTORS:
            raise UsageError(
                f"{source} holds {header.network}, which is not a detector; pass weights of a classifier as "
                "backbone_weights."
            )
        if self.backbone_weights is not None:
            raise UsageError(f"{source} is a whole detector with its backbone; omit backbone_weights.")
        if self.name not in (None, header.network):
            raise UsageError(f"{source} is a {header.network}, not a {self.name}; omit the name.")
        check_attention(header, self.attention, self.attention_options or {}, source)
        options = dict(header.network_options)
        backbone = {name: options.pop(name) for name in _BACKBONE_ARGUMENTS if name in options}
        for name in _BACKBONE_ARGUMENTS:
            value = getattr(self, name)
            if value and _plain(value) != _plain(backbone.get(name, "none")):
                raise UsageError(
                    f"the backbone of {source} was built with {name} {backbone.get(name)!r}, not {value!r}; "
                    "omit it."
                )
        same_classes = self.num_classes in (None, header.num_classes + 1)
        saved = {
            "name": header.network,
            "num_classes": header.num_classes + 1,
            "in_channels": header.in_channels,
            "mean": header.mean,
            "std": header.std,
            "class_names": header.class_names if same_classes else None,
            **backbone,
        }
        changes = {name: value for name, value in saved.items() if getattr(self, name) is None}
        if header.attention != "none":
            changes["attention"] = header.attention
            changes["attention_options"] = {**header.attention_options, **(self.attention_options or {})}
        return replace(self, **changes, options={**options, **self.options})


def check_attention(header: Header, attention: str | None, options: Mapping[str, Any], source: str) -> None:
    """Refuse attention that differs from the attention of the weights, if they have any.

    Args:
        header: Header of the weights.
        attention: The requested attention; None: that of the weights.
        options: The requested options.
        source: Name of the weights in error messages.

    Raises:
        UsageError: The weights have another attention, or other options.
    """
    if header.attention == "none":
        return
    if attention not in (None, header.attention):
        raise UsageError(
            f"the network of {source} has attention {header.attention!r}, not {attention!r}; omit it, "
            "or give other weights."
        )
    trained = {**option_defaults(header.attention), **header.attention_options}
    for name, value in options.items():  # building the attention refuses unknown names
        if name in trained and name != "implementation" and _plain(value) != _plain(trained[name]):
            raise UsageError(
                f"the attention of {source} was trained with {name} {trained[name]!r}, not {value!r}; "
                "omit it, or give other weights."
            )


def _plain(value: Any) -> Any:
    """Return an option as it is in a header, with lists instead of tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
