"""Backbones of detectors: classification networks without their classifier, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.detector_request import DetectorRequest, check_attention
from cbam_lightning.models.detection.vgg import build_vgg16
from cbam_lightning.models.factory import BuiltNetwork, build_network, resolve_names
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Header, LoadReport


def build_backbone(request: DetectorRequest) -> tuple[BuiltNetwork, set[int]]:
    """Build the backbone of a detector, with fresh initial values or those of a classifier's checkpoint.

    Returns:
        The network, and the ``id`` of every parameter whose value comes from the weights.

    Raises:
        UsageError: The weights belong to another network, or were trained with another attention or on
            images with another number of channels.
    """
    name, in_channels = request.architecture.backbone, request.channels
    attention, attention_options = request.attention, request.attention_options
    if request.architecture.has_attention_in_heads:
        attention, attention_options = request.backbone_attention, request.backbone_attention_options
    weights, source = request.backbone_weights, str(request.backbone_weights)
    checkpoint = None if weights is None else open_checkpoint(weights, name)
    header = None if checkpoint is None else checkpoint.header
    if header is not None:
        _check_header(header, name, in_channels, source)
        check_attention(header, attention, attention_options or {}, source)
    names = (name, attention, attention_options, request.backbone_options)
    if name == "torchvision/vgg16":
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


def _check_plain(names: Mapping[str, Any]) -> None:
    extra = {**names["attention_options"], **names["network_options"]}
    if names["attention"] != "none" or extra:
        raise UsageError(
            "VGG16 as a backbone has neither attention nor options of its own; omit backbone_attention, "
            "backbone_attention_options and backbone_options, and use `attention` for the heads."
        )
