"""What a BatchNorm in training needs: at least two values of each channel."""

from __future__ import annotations

from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.errors import UsageError


def check_values(module: nn.Module, bn: nn.Module, values: int, x: Tensor) -> None:
    """Raise a ``UsageError`` if ``bn`` is in training and has a single value of each channel to normalise.

    With SyncBatchNorm, the batch over all processes counts, which is not known here.

    Args:
        module: The attention module that has the layer.
        bn: The layer, or what it was replaced with.
        values: Number of values of each channel.
        x: The input of ``module``.
    """
    if isinstance(bn, tuple(positions.BATCH_NORMS.values())) and bn.training and values == 1:
        raise UsageError(
            f"{type(module).__name__} was given {tuple(x.shape)} in training, which leaves a BatchNorm of it "
            "a single value, where it needs two. Use a larger batch, drop the incomplete last one, or "
            "call eval() on the module."
        )
