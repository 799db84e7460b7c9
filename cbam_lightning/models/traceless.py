"""Choices that leave no trace in weights: with others, every key would fit, and the logits would be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cbam_lightning.errors import UsageError
from cbam_lightning.models.registry import MODELS

if TYPE_CHECKING:
    from cbam_lightning.weights import Checkpoint, Header


def check_strides(header: Header, options: Mapping[str, Any]) -> None:
    """Refuse other strides than those with which weights were trained.

    Args:
        header: Of the weights.
        options: Of the network of the same name.

    Raises:
        UsageError: ``stride_in`` or ``stem`` differs.
    """
    trained = {"stride_in": "3x3", **header.network_options}
    if header.network in MODELS:
        trained = {"stem": "imagenet", **MODELS[header.network].options, **trained}
    for name in ("stride_in", "stem"):
        if name in trained and options.get(name, trained[name]) != trained[name]:
            raise UsageError(
                f"the weights were trained with {name} {trained[name]!r}, not {options[name]!r}; "
                f"leave {name} out, or start without weights."
            )


def check_attention(checkpoint: Checkpoint, attention: str, source: str) -> None:
    """Refuse another attention than that with which weights were trained, if it has no parameters.

    Args:
        checkpoint: The weights and their header.
        attention: Name of the attention of the network.
        source: Where the weights come from, for the message.

    Raises:
        UsageError: The attention differs.
    """
    from cbam_lightning.weights.loading import ATTENTION

    trained = checkpoint.header.attention
    seen = any(ATTENTION in key.split(".") for key in checkpoint.state_dict)
    if trained not in ("none", attention) and not seen:
        raise UsageError(
            f"{source} was trained with attention {trained!r}, not {attention!r}; give that attention or "
            "leave it out, or load what fits with strict_weights=False (--model.strict_weights false)."
        )
