"""Backbones of detectors: classification networks without their classifier, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cbam_lightning.attention.registry import option_defaults
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.vgg import build_vgg16
from cbam_lightning.models.factory import BuiltNetwork, build_network, resolve_names
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Header, LoadReport

_VGG16 = "torchvision/vgg16"


def build_backbone(
    name: str,
    *,
    attention: str | None,
    attention_options: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    in_channels: int,
    weights: str | Path | None,
) -> tuple[BuiltNetwork, set[int]]:
    """Build a backbone, with fresh initial values or those of a classifier's checkpoint.

    Args:
        name: ``torchvision/vgg16``, or one of our ResNets.
        attention: Attention in the network. Default: that of the weights, else ``none``.
        attention_options: Arguments of the attention's class besides ``channels``.
        options: Further arguments of the network's class.
        in_channels: Number of channels of the images.
        weights: As for ``create_model``.

    Returns:
        The network, and the ``id`` of every parameter whose value comes from the weights.

    Raises:
        UsageError: The weights belong to another network, or were trained with another attention or on
            images with another number of channels.
    """
    source = str(weights)
    checkpoint = None if weights is None else open_checkpoint(weights, name)
    header = None if checkpoint is None else checkpoint.header
    if header is not None:
        _check_header(header, name, in_channels, source)
        check_attention(header, attention, attention_options or {}, source)
    names = (name, attention, attention_options, options)
    if name == _VGG16:
        resolved = resolve_names(header, *names)
        _check_plain(resolved)
        maps, trained = build_vgg16(in_channels, checkpoint, source)
        return BuiltNetwork(maps, resolved, header), trained
    built = build_network(*names, num_classes=0, in_channels=in_channels, weights=checkpoint, source=source)
    return built, loaded_parameters(built.network, built.report) if built.report else set()


def loaded_parameters(network: nn.Module, report: LoadReport) -> set[int]:
    """Return the ``id`` of every parameter of a network whose value was loaded."""
    matched = set(report.matched)
    return {id(parameter) for key, parameter in network.named_parameters() if key in matched}


def _check_header(header: Header, name: str, in_channels: int, source: str) -> None:
    if header.network != name:
        raise UsageError(
            f"{source} holds weights of {header.network}, but the backbone is {name}. Give weights of "
            f"{name}, or choose a detector with the backbone {header.network}."
        )
    if header.in_channels != in_channels:
        raise UsageError(
            f"{source} was trained with in_channels {header.in_channels}, the detector has {in_channels}; "
            f"use such images (--data.in_channels {header.in_channels}), or other weights."
        )


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
        if name in trained and name != "implementation" and plain(value) != plain(trained[name]):
            raise UsageError(
                f"the attention of {source} was trained with {name} {trained[name]!r}, not {value!r}; "
                "omit it, or give other weights."
            )


def plain(value: Any) -> Any:
    """Return an option as it is in a header, with lists instead of tuples."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_plain(names: Mapping[str, Any]) -> None:
    extra = {**names["attention_options"], **names["network_options"]}
    if names["attention"] != "none" or extra:
        raise UsageError(
            "VGG16 as a backbone has neither attention nor options of its own; omit backbone_attention, "
            "backbone_attention_options and backbone_options, and use `attention` for the heads."
        )
