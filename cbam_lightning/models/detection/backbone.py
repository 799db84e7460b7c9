"""The backbone of a detector: a classification network without its classifier, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cbam_lightning.attention.registry import option_defaults
from cbam_lightning.errors import UsageError
from cbam_lightning.models.detection.vgg import build_vgg16
from cbam_lightning.models.factory import build, resolve_names
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.weights import Checkpoint, Header, load_into

_VGG16 = "torchvision/vgg16"


@dataclass(frozen=True)
class Backbone:
    """A network, and what is known of it.

    Attributes:
        network: Without a classifier.
        names: The arguments of ``build`` that it was made with.
        trained: The ``id`` of every parameter that has a value of a checkpoint.
        header: Of that checkpoint.
    """

    network: nn.Module
    names: dict[str, Any]
    trained: set[int] = field(default_factory=set)
    header: Header | None = None


def build_backbone(
    name: str,
    *,
    attention: str | None,
    attention_options: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    in_channels: int,
    weights: str | Path | None,
) -> Backbone:
    """Build a backbone, with fresh initial values or those of a classifier's checkpoint.

    Args:
        name: ``torchvision/vgg16``, or a ResNet of ours.
        attention: In the network. Left out, what the weights were trained with, else ``none``.
        attention_options: What the attention's class accepts besides ``channels``.
        options: Other arguments of the network's class.
        in_channels: Number of channels of the images.
        weights: As for ``create_model``.

    Raises:
        UsageError: The weights belong to another network, or were trained with another attention, or on
            images with another number of channels.
    """
    checkpoint = None if weights is None else open_checkpoint(weights, name)
    header = None if checkpoint is None else checkpoint.header
    if header is not None:
        _check_network(header, name, str(weights))
        _check_channels(header, in_channels, str(weights))
        check_attention(header, attention, attention_options or {}, str(weights))
    names = resolve_names(header, name, attention, attention_options, options)
    if name == _VGG16:
        _check_plain(names)
        maps, trained = build_vgg16(in_channels, checkpoint, str(weights))
        return Backbone(maps, names, trained, header)
    network = build(**names, num_classes=0, in_channels=in_channels)
    trained = set() if checkpoint is None else load_trained(network, checkpoint, str(weights))
    return Backbone(network, names, trained, header)


def load_trained(
    network: nn.Module,
    checkpoint: Checkpoint,
    source: str,
    head: str | None = None,
    load_head: bool = True,
) -> set[int]:
    """Load a checkpoint into a network, the classifier apart.

    Args:
        network: Changed in place.
        checkpoint: Without attention, it fits a network with attention, too, which is new then.
        source: What to call the checkpoint in an error.
        head: As for ``load_into``.
        load_head: As for ``load_into``.

    Returns:
        The ``id`` of every parameter that has a value of the checkpoint.

    Raises:
        UsageError: The values do not fit.
    """
    new = checkpoint.header.attention == "none"
    report = load_into(
        network, checkpoint.state_dict, head=head, load_head=load_head, new_attention=new, source=source
    )
    matched = set(report.matched)
    return {id(parameter) for key, parameter in network.named_parameters() if key in matched}


def _check_network(header: Header, name: str, source: str) -> None:
    if header.network != name:
        message = (
            f"{source} holds weights of {header.network}, but the backbone is {name}. Give weights of "
            f"{name}, or choose a detector on {header.network}."
        )
        raise UsageError(message)


def _check_channels(header: Header, in_channels: int, source: str) -> None:
    if header.in_channels != in_channels:
        message = (
            f"{source} was trained on images of {_channels(header.in_channels)}, and the detector takes "
            f"{_channels(in_channels)}; give images with in_channels {header.in_channels}, as with "
            f"--data.in_channels {header.in_channels}, or other weights."
        )
        raise UsageError(message)


def _channels(number: int) -> str:
    return f"{number} channel{'' if number == 1 else 's'}"


def check_attention(header: Header, attention: str | None, options: Mapping[str, Any], source: str) -> None:
    """Refuse attention other than what weights were trained with; they may have had none.

    Args:
        header: Of the weights.
        attention: What is asked for; None for whatever it was.
        options: Those that are asked for.
        source: What to call the weights.

    Raises:
        UsageError: They had another attention, or other options.
    """
    if header.attention == "none":
        return
    if attention not in (None, header.attention):
        message = (
            f"the network of {source} has attention {header.attention!r}, not {attention!r}; leave it out, "
            "or give other weights."
        )
        raise UsageError(message)
    trained = {**option_defaults(header.attention), **header.attention_options}
    for name, value in options.items():  # unknown names are refused when the attention is built
        if name in trained and name != "implementation" and _plain(value) != _plain(trained[name]):
            message = (
                f"the attention of {source} was trained with {name} {trained[name]!r}, not {value!r}; "
                "leave it out, or give other weights."
            )
            raise UsageError(message)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # a header knows lists only


def _check_plain(names: Mapping[str, Any]) -> None:
    extra = {**names["attention_options"], **names["network_options"]}
    if names["attention"] != "none" or extra:
        message = (
            "VGG16 as a backbone has neither attention nor options of its own; leave out backbone_attention, "
            "backbone_attention_options and backbone_options, and give `attention` for the heads."
        )
        raise UsageError(message)
