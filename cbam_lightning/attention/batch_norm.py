"""What a BatchNorm inside attention cannot normalise."""

from __future__ import annotations

from torch import nn

from cbam_lightning.attention.positions import BATCH_NORMS
from cbam_lightning.errors import UsageError


def check_batch(module: nn.Module, batch_norm: nn.Module, values: int, name: str) -> None:
    """Raise a ``UsageError`` if a BatchNorm in training would get a single value per channel.

    Only plain BatchNorm is asked: with SyncBatchNorm, the values of all processes count.

    Args:
        module: The attention module that it is part of.
        batch_norm: The layer.
        values: Number of values per channel that it would normalise.
        name: What the message calls the layer.
    """
    is_plain = isinstance(batch_norm, tuple(BATCH_NORMS.values()))
    if is_plain and batch_norm.training and values == 1:
        raise UsageError(
            f"{type(module).__name__} was given a batch of one in training, but {name} needs at least two. "
            "Use a larger batch, drop the incomplete last one, or call eval() on the module."
        )
