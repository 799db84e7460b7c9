"""Networks of the user, known by a name so that experiments and checkpoints can tell of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.models.insertion import insert_attention
from cbam_lightning.user_code.class_paths import importing_nothing

_OURS = ("num_classes", "in_channels")
_NATIVE = ("attention", "attention_options")


def build_user_network(
    name: str,
    builder: Callable[..., Any],
    attention: str,
    attention_options: Mapping[str, Any],
    network_options: Mapping[str, Any],
    num_classes: int,
    in_channels: int,
) -> nn.Module:
    """Build a network of the user's, and put attention into it.

    Args:
        name: The name that was given to ``register_model``, or the import path of its class.
        builder: Called with those of ``num_classes``, ``in_channels`` and the options that it accepts. If it
            accepts ``attention`` and ``attention_options``, it puts the attention in itself.
        attention: Name for ``create_attention``, put in by ``insert_attention`` otherwise.
        attention_options: Keyword arguments of every attention module; the gate is ``identity`` by default.
        network_options: Keyword arguments of the builder, and ``where`` for ``insert_attention``.
        num_classes: Number of logits.
        in_channels: Number of channels of the images.

    Raises:
        UsageError: An option that the builder does not accept, something other than a module, or attention
            that cannot be put in.
    """
    parameters = inspect.signature(builder).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    native = all(option in parameters for option in _NATIVE)
    options = dict(network_options)
    where = None if native else options.pop("where", None)
    allowed = set(parameters) - {*_OURS, *_NATIVE} | (set() if native else {"where"})
    for option in options:
        if option not in allowed and not open_ended:
            raise unknown_name(kind=f"{name} option", given=option, allowed=allowed)
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    if native:
        given |= {"attention": attention, "attention_options": dict(attention_options)}
    network = builder(**options, **{key: v for key, v in given.items() if key in parameters or open_ended})
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        message = f"{name} gave {kind}; register a torch.nn.Module or a function that returns one."
        raise UsageError(message)
    if native:
        return network
    with importing_nothing():  # the names may be those of a checkpoint
        return insert_attention(network, attention, where=where, **attention_options)
