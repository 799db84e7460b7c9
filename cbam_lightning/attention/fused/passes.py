"""The passes over memory of ``attend.py``, each compiled into few loops where there is a compiler.

Shapes: the feature map x and its gradients are (N, C, *positions); a channel gate (N, C, 1, …), a spatial
gate (N, 1, *positions); the maps that a spatial gate is made from (N, 2, *positions), maximum and mean over
the channels; K is the number of pools of a channel gate, R of its hidden units. All but x and its gradients
are at least float32; elements of x in half precision are widened one at a time. Every call costs some 0.1 ms,
so what follows from a sum over x is computed in the same call, ``stored`` where every element needs it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.attention.fused.compiling import Pass, stored
from cbam_lightning.attention.fused.excitation import (
    Excitation,
    excitation,
    excitation_gradient,
    logit_gradient,
)
from cbam_lightning.attention.fused.pools import (
    PoolGradient,
    beside,
    over_channels,
    over_positions,
    share_of,
    through_pool,
)
from cbam_lightning.attention.gate import at_least_float32
from cbam_lightning.attention.positions import broadcast


class ChannelGate(NamedTuple):
    """A channel gate and what its gradient needs.

    Attributes:
        gate: (N, C, 1, …).
        pooled: (K, N, C), the mean over the positions and, with K = 2, their maximum.
        hidden: (K, N, R), the MLP's hidden units.
    """

    gate: Tensor
    pooled: Tensor
    hidden: Tensor


@Pass
def reduce(
    x: Tensor, mlp: Excitation | None, maximum: bool, factor: float, sequential: bool
) -> tuple[Tensor, ChannelGate | None]:
    """Return the maps of the spatial gate, and the channel gate if it comes before.

    Args:
        x: The feature map.
        mlp: Of the channel gate; None if it comes after the spatial gate or not at all.
        maximum: Whether the channel gate pools the maximum, too.
        factor: What the sigmoid is multiplied with to give a gate.
        sequential: Whether the maps are those of ``x`` times the channel gate.
    """
    channel = None if mlp is None else _channel_gate(at_least_float32(x), mlp, maximum, factor)
    gated = _gated(x, channel.gate if channel and sequential else None)
    return torch.cat([gated.amax(1, keepdim=True), gated.mean(1, keepdim=True)], dim=1), channel


@Pass
def scale(x: Tensor, channel: Tensor | None, spatial: Tensor) -> Tensor:
    """Return ``x`` times its gates, the spatial gate last, in its own dtype."""
    return _gated(_gated(x, channel), spatial).to(x.dtype)


@Pass
def excite(
    x: Tensor, spatial: Tensor | None, mlp: Excitation, maximum: bool, factor: float
) -> tuple[Tensor, ChannelGate]:
    """Return ``x`` times its gates, the channel gate last, in its own dtype, and the channel gate."""
    gated = _gated(x, spatial)
    channel = _channel_gate(gated, mlp, maximum, factor)
    return _gated(gated, channel.gate).to(x.dtype), channel


@Pass
def last_spatial_gradient(
    x: Tensor,
    grad: Tensor,
    channel: Tensor | None,
    spatial: Tensor,
    maps: Tensor,
    factor: float,
    sequential: bool,
) -> tuple[Tensor, Tensor]:
    """Differentiate the product by the logits of the spatial gate, which comes last.

    Returns:
        The gradient of the logits, and the share of each channel in the gradient of the maximum: 1 by the
        number of channels that have it. Both are (N, 1, *positions).
    """
    gated = _gated(x, channel)
    share = share_of(gated if sequential else at_least_float32(x), maps[:, :1], over_channels)
    return logit_gradient((gated * grad).sum(1, keepdim=True), spatial, factor), share


@Pass
def first_spatial_gradient(
    x: Tensor,
    grad: Tensor,
    spatial: Tensor,
    channel: Tensor,
    channel_pool: PoolGradient,
    maps: Tensor,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Do as ``last_spatial_gradient``, where the spatial gate comes first of two."""
    wide = at_least_float32(x)
    slope = _slope(wide, grad, spatial, channel, channel_pool)
    share = share_of(wide, maps[:, :1], over_channels)
    return logit_gradient((wide * slope).sum(1, keepdim=True), spatial, factor), share


@Pass
def last_channel_gradient(
    x: Tensor, grad: Tensor, spatial: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Excitation, PoolGradient]:
    """Differentiate the product by the channel gate, which comes last of two: by its MLP and by its pools."""
    gated = _gated(x, spatial)
    return _channel_gate_gradient(over_positions(torch.sum, gated * grad), gated, channel, mlp, factor)


@Pass
def lone_channel_gradient(
    x: Tensor, grad: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Tensor, Excitation]:
    """Differentiate the product by ``x`` and by the MLP of the channel gate, where there is no other."""
    wide = at_least_float32(x)
    d_gate = over_positions(torch.sum, wide * grad)
    d_mlp, pool = _channel_gate_gradient(d_gate, wide, channel, mlp, factor)
    return _input_gradient(x, grad, channel.gate, pool, None, None, "channel"), d_mlp


@Pass
def first_channel_gradient(
    x: Tensor,
    grad: Tensor,
    channel: ChannelGate,
    mlp: Excitation,
    spatial: Tensor,
    maps_pool: PoolGradient,
    factor: float,
    order: str,
) -> tuple[Tensor, Excitation]:
    """Differentiate the product by ``x`` and by the MLP of the channel gate, which comes first of two."""
    wide = at_least_float32(x)
    slope = _slope(wide, grad, channel.gate, spatial, None if order == "parallel" else maps_pool)
    d_gate = over_positions(torch.sum, wide * slope)
    d_mlp, pool = _channel_gate_gradient(d_gate, beside(wide, spatial), channel, mlp, factor)
    return _input_gradient(x, grad, channel.gate, pool, spatial, maps_pool, order), d_mlp


@Pass
def input_gradient(
    x: Tensor,
    grad: Tensor,
    channel: Tensor | None,
    channel_pool: PoolGradient | None,
    spatial: Tensor,
    maps_pool: PoolGradient,
    order: str,
) -> Tensor:
    """Return the gradient of ``x``, in its own dtype, where the spatial gate comes first or alone."""
    return _input_gradient(x, grad, channel, channel_pool, spatial, maps_pool, order)


def _input_gradient(
    x: Tensor,
    grad: Tensor,
    channel: Tensor | None,
    channel_pool: PoolGradient | None,
    spatial: Tensor | None,
    maps_pool: PoolGradient | None,
    order: str,
) -> Tensor:
    wide = at_least_float32(x)
    (first, first_pool), (last, last_pool) = (channel, channel_pool), (spatial, maps_pool)
    if order in ("spatial-channel", "channel"):
        (first, first_pool), (last, last_pool) = (last, last_pool), (first, first_pool)
    parallel = order == "parallel"
    d_x = _gated(_slope(wide, grad, first, last, None if parallel else last_pool), first)
    for pool in (last_pool if parallel else None, first_pool):
        d_x = d_x if pool is None else d_x + through_pool(wide, pool)
    return d_x.to(x.dtype)


def _channel_gate(x: Tensor, mlp: Excitation, maximum: bool, factor: float) -> ChannelGate:
    pools = (torch.mean, torch.amax) if maximum else (torch.mean,)
    pooled = torch.stack([over_positions(pool, x).flatten(1) for pool in pools])
    gate, hidden = excitation(pooled, mlp, factor)
    return ChannelGate(broadcast(gate, x), pooled, hidden)


def _channel_gate_gradient(
    d_gate: Tensor, x: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Excitation, PoolGradient]:
    """Differentiate ``_channel_gate`` of ``x``, given the gradient of the gate, (N, C, 1, …)."""
    _, pooled, hidden = channel
    d_mlp, d_pooled = excitation_gradient(
        d_gate.flatten(1), channel.gate.flatten(1), pooled, hidden, mlp, factor
    )
    everywhere = stored(broadcast(d_pooled[0] / x.shape[2:].numel(), x))
    if len(pooled) == 1:
        return d_mlp, PoolGradient(everywhere)
    peak = broadcast(pooled[1], x)
    at_peak = stored(broadcast(d_pooled[1], x) * share_of(x, peak, over_positions))
    return d_mlp, PoolGradient(everywhere, at_peak, peak)


def _slope(
    x: Tensor, grad: Tensor, first: Tensor | None, last: Tensor | None, last_pool: PoolGradient | None
) -> Tensor:
    """Return the gradient of ``x * first``; ``last_pool`` is that of a pool of ``x * first``."""
    slope = _gated(grad, last)
    return slope if last_pool is None else slope + through_pool(_gated(x, first), last_pool)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    wide = at_least_float32(x)
    return wide if gate is None else wide * gate
