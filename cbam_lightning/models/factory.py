"""Build a network by its name, or as a checkpoint says."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.registry import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from cbam_lightning.weights import Header

# Given by name to `build`, and so no further options of a network.
_OWN_ARGUMENTS = {"attention", "attention_options", "num_classes", "in_channels"}


def create_model(
    name: str | None = None,
    *,
    attention: str | None = None,
    attention_options: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    strict_weights: bool = True,
    **options: Any,
) -> nn.Module:
    """Build a network, with fresh initial values or those of a checkpoint.

    What is left out is what the header of ``weights`` says; without weights, the plain network for 1000
    classes and 3 channels.

    Args:
        name: One of ``list_models()``.
        attention: One of ``cbam_lightning.attention.list_attention()``, put where its paper puts it.
        attention_options: What the attention's class accepts besides ``channels``.
        num_classes: Number of logits; 0 makes the network return its pooled features.
        in_channels: Number of channels of the images.
        weights: A ``.safetensors`` or ``.ckpt`` file. If it has another number of classes, the classifier
            starts anew, with a warning.
        strict_weights: Whether everything but the classifier has to fit the weights.
        options: Other arguments of the network's class, in place of those that belong to ``name``.

    Returns:
        A network with ``num_features``, ``num_classes``, ``in_channels``, ``forward_features``,
        ``forward_head``, ``get_classifier`` and ``reset_classifier``.

    Raises:
        UsageError: An unknown name or option, a value out of its range, or weights of another network.
    """
    if weights is None:
        names = resolve_names(None, name, attention, attention_options, options)
        return build(**names, num_classes=_or(num_classes, 1000), in_channels=_or(in_channels, 3))

    from cbam_lightning.weights import load_checkpoint, load_into

    checkpoint = load_checkpoint(weights)
    header = checkpoint.header
    names = resolve_names(header, name, attention, attention_options, options)
    classes = _or(num_classes, header.num_classes)
    network = build(**names, num_classes=classes, in_channels=_or(in_channels, header.in_channels))
    if classes != header.num_classes:
        message = f"{weights} has {header.num_classes} classes, not {classes}: the classifier starts anew."
        warnings.warn(message, stacklevel=2)
    load_into(network, checkpoint.state_dict, strict=strict_weights, source=str(weights))
    return network


def resolve_names(
    header: Header | None,
    network: str | None,
    attention: str | None,
    attention_options: Mapping[str, Any] | None,
    network_options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fill in the names that were left out, from the header of a checkpoint if there is one.

    Returns:
        The four names and options, as ``build`` takes them.

    Raises:
        UsageError: Neither a network nor a header is given.
    """
    if network is None and header is None:
        message = "neither a network nor weights are given; name one of `cbam-lightning models`."
        raise UsageError(message)
    same_network = header is not None and network in (None, header.network)
    same_attention = header is not None and attention in (None, header.attention)
    return {
        "network": network or (header and header.network),
        "attention": attention or (header.attention if header else "none"),
        "attention_options": dict(
            attention_options or (header.attention_options if header and same_attention else {})
        ),
        "network_options": dict(
            network_options or (header.network_options if header and same_network else {})
        ),
    }


def build(
    network: str,
    attention: str,
    attention_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Build a network with fresh initial values; the arguments are those of ``create_model``, all given.

    Raises:
        UsageError: An unknown name or option, or a value out of its range.
    """
    if network not in MODELS:
        raise unknown_name(kind="model", given=network, allowed=MODELS)
    module_name, class_name = MODELS[network].family.split(".")
    network_class = getattr(importlib.import_module(f"cbam_lightning.models.{module_name}"), class_name)
    allowed = inspect.signature(network_class).parameters.keys() - _OWN_ARGUMENTS
    for option in network_options:
        if option not in allowed:
            raise unknown_name(kind=f"{network} option", given=option, allowed=allowed)
    built: nn.Module = network_class(
        **{**MODELS[network].options, **network_options},
        attention=attention,
        attention_options=dict(attention_options),
        num_classes=num_classes,
        in_channels=in_channels,
    )
    return built


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
