"""User-defined networks, with a name by which experiments and checkpoints refer to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.insertion.insert import insert_named_attention

_ATTENTION = ("attention", "attention_options")


def build_user_network(
    name: str,
    builder: Callable[..., Any],
    attention: str,
    attention_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Build a user-defined network and insert attention.

    Args:
        name: The name passed to ``register_model``, or the import path of the class.
        builder: Called with those of ``num_classes``, ``in_channels`` and the options that it accepts. If it
            accepts ``attention`` and ``attention_options``, it adds the attention itself.
        attention: Name for ``create_attention``.
        attention_options: Arguments of every attention module. If ``insert_attention`` adds them, the gate
            defaults to ``identity``.
        network_options: Arguments of the builder, and ``where`` for ``insert_attention``.
        num_classes: Number of logits.
        in_channels: Number of channels of the images.

    Raises:
        UsageError: An option that the builder does not accept, a builder that does not return a module, or
            attention that cannot be inserted.
    """
    parameters = inspect.signature(builder).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    adds_attention = all(option in parameters for option in _ATTENTION)
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    options = dict(network_options)
    where = None if adds_attention else options.pop("where", None)
    allowed = set(parameters) - {*sizes, *_ATTENTION} | (set() if adds_attention else {"where"})
    for option in options:
        if option not in allowed and not open_ended:
            raise unknown_name(kind=f"{name} option", given=option, allowed=allowed)
    options |= {option: size for option, size in sizes.items() if option in parameters or open_ended}
    if adds_attention:
        options |= {"attention": attention, "attention_options": dict(attention_options)}
    network = builder(**options)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{name} returned a {type(network).__name__}; register a torch.nn.Module or a function that "
            "returns one."
        )
    return network if adds_attention else insert_named_attention(network, attention, attention_options, where)
