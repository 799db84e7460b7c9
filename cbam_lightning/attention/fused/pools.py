"""Pools over the positions, and what the pools of a gate hand back to the elements they were made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.attention.positions import axes


class PoolGradient(NamedTuple):
    """What the elements of a gate's input get from the pools of the gate.

    Attributes:
        everywhere: The gradient of every element, through the mean.
        at_peak: The gradient of every element that equals the maximum; None without a maximum.
        peak: The maximum; None likewise.
    """

    everywhere: Tensor
    at_peak: Tensor | None = None
    peak: Tensor | None = None


def over_positions(reduction: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply ``torch.mean``, ``sum``, ``amax`` or ``amin``: (N, C, *positions) to (N, C, 1, …)."""
    # With the channels side by side, a loop over all positions comes to the other half of a cache line when
    # the line is long gone, a loop over a row does not: 0.7 of the time for (16, 512, 28, 28).
    if x.ndim > 3 and x.stride(1) == 1:
        x = reduction(x, -1, keepdim=True)
    return reduction(x, axes(x), keepdim=True)


def over_channels(reduction: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply the same over the channels: (N, C, *positions) to (N, 1, *positions)."""
    return reduction(x, 1, keepdim=True)


def beside(x: Tensor, other: Tensor) -> Tensor:
    """Return ``x``, computed as if it depended on ``other``, which broadcasts to it.

    The compiler then makes sums over ``x`` in one loop with sums over a function of both. Of ``x`` alone it
    would merge all indices that can be, so that the loops do not match, and read ``x`` twice: 1.4 times as
    long for (16, 512, 28, 28). With the channels side by side there is nothing to gain.
    """
    if not torch.compiler.is_compiling() or x.stride(1) == 1:
        return x
    return torch.where(other == other, x, other)  # NaN is the one number that differs from itself


def share_of(pooled: Tensor, peak: Tensor, over: Callable[..., Tensor]) -> Tensor:
    """Return 1 by the number of elements that equal the maximum, as ``amax`` shares its gradient.

    Args:
        pooled: What the maximum was taken of, (N, C, *positions).
        peak: The maximum.
        over: ``over_positions`` or ``over_channels``.
    """
    return 1 / over(torch.sum, (pooled == peak).to(pooled.dtype))


def maps_gradient(maps: Tensor, d_maps: Tensor, share: Tensor, channels: int) -> PoolGradient:
    """Return what the channels get from the maps of a spatial gate.

    This is not part of a pass, which would compute it again for every channel.

    Args:
        maps: (N, 2, *positions), the maximum and the mean.
        d_maps: Their gradient.
        share: Of each channel in the gradient of the maximum, (N, 1, *positions).
        channels: C, over which the mean was taken.
    """
    return PoolGradient(d_maps[:, 1:] / channels, d_maps[:, :1] * share, maps[:, :1])


def through_pool(pooled: Tensor, gradient: PoolGradient) -> Tensor:
    """Return what every element of ``pooled``, the input of the pool, gets from it."""
    if gradient.peak is None or gradient.at_peak is None:
        return gradient.everywhere
    return gradient.everywhere + torch.where(pooled == gradient.peak, gradient.at_peak, 0.0)
