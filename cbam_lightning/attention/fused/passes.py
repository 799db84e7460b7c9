"""The passes over memory of ``attend.py``, each compiled into few loops where a compiler is available.

Shapes: the feature map x and its gradients are (N, C, *positions); a channel gate is (N, C, 1, …), a spatial
gate (N, 1, *positions); the maps that a spatial gate is made from, maximum and mean over the channels, are
(N, 2, *positions); K is the number of pools of a channel gate, R of its hidden units. All but x and its
gradients are at least float32; elements of x in half precision are widened one at a time. A call costs about
0.1 ms, so what follows from a sum over x is computed in the same call, ``stored`` where every element needs
it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.attention.fused.compiling import Pass, stored
from cbam_lightning.attention.fused.operations import (
    Excitation,
    PoolGradient,
    beside,
    excitation,
    excitation_gradient,
    logit_gradient,
    over_channels,
    over_positions,
    share_of,
    through_pool,
)
from cbam_lightning.attention.gate import at_least_float32
from cbam_lightning.attention.positions import broadcast


class ChannelGate(NamedTuple):
    """A channel gate and what its backward pass needs.

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
    """Return the maps of the spatial gate, and the channel gate if it comes first.

    Args:
        x: The feature map.
        mlp: MLP of the channel gate; None if that gate comes last or is absent.
        maximum: Whether the channel gate also pools the maximum.
        factor: A gate is this times a sigmoid.
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
    """Return the gradient of the product for the logits of a spatial gate that comes last.

    Returns:
        The gradient of the logits, and the share of each channel in the gradient of the maximum: 1 / the
        number of channels that equal it. Both are (N, 1, *positions).
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
    """Return the same as ``last_spatial_gradient`` for a spatial gate that comes first of two."""
    wide = at_least_float32(x)
    slope = _slope(wide, grad, spatial, channel, channel_pool)
    share = share_of(wide, maps[:, :1], over_channels)
    return logit_gradient((wide * slope).sum(1, keepdim=True), spatial, factor), share


@Pass
def last_channel_gradient(
    x: Tensor, grad: Tensor, spatial: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Excitation, PoolGradient]:
    """Return the gradients of the MLP and of the pools of a channel gate that comes last of two."""
    gated = _gated(x, spatial)
    return _channel_gate_gradient(over_positions(torch.sum, gated * grad), gated, channel, mlp, factor)


@Pass
def lone_channel_gradient(
    x: Tensor, grad: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Tensor, Excitation]:
    """Return the gradients of ``x`` and of the MLP of a channel gate that is the only gate."""
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
    """Return the gradients of ``x`` and of the MLP of a channel gate that comes first of two."""
    wide = at_least_float32(x)
    slope = _slope(wide, grad, channel.gate, spatial, None if order == "parallel" else maps_pool)
    d_gate = over_positions(torch.sum, wide * slope)
    d_mlp, pool = _channel_gate_gradient(d_gate, beside(wide, spatial), channel, mlp, factor)
    return _input_gradient(x, grad, channel.gate, pool, spatial, maps_pool, order), d_mlp


def _input_gradient(
    x: Tensor,
    grad: Tensor,
    channel: Tensor | None,
    channel_pool: PoolGradient | None,
    spatial: Tensor | None,
    maps_pool: PoolGradient | None,
    order: str,
) -> Tensor:
    """Return the gradient of ``x``, in its own dtype."""
    wide = at_least_float32(x)
    (first, first_pool), (last, last_pool) = (channel, channel_pool), (spatial, maps_pool)
    if order in ("spatial-channel", "channel"):
        (first, first_pool), (last, last_pool) = (last, last_pool), (first, first_pool)
    parallel = order == "parallel"
    d_x = _gated(_slope(wide, grad, first, last, None if parallel else last_pool), first)
    for pool in (last_pool if parallel else None, first_pool):
        d_x = d_x if pool is None else d_x + through_pool(wide, pool)
    return d_x.to(x.dtype)


input_gradient = Pass(_input_gradient)  # a pass of its own where the spatial gate comes first or alone


def _channel_gate(x: Tensor, mlp: Excitation, maximum: bool, factor: float) -> ChannelGate:
    pools = (torch.mean, torch.amax) if maximum else (torch.mean,)
    pooled = torch.stack([over_positions(pool, x).flatten(1) for pool in pools])
    gate, hidden = excitation(pooled, mlp, factor)
    return ChannelGate(broadcast(gate, x), pooled, hidden)


def _channel_gate_gradient(
    d_gate: Tensor, x: Tensor, channel: ChannelGate, mlp: Excitation, factor: float
) -> tuple[Excitation, PoolGradient]:
    """Return the gradients of the MLP and of the pools for that of the gate, (N, C, 1, …)."""
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
    """Return the gradient of ``x * first``, whose pools have the gradient ``last_pool``."""
    slope = _gated(grad, last)
    return slope if last_pool is None else slope + through_pool(_gated(x, first), last_pool)


def _gated(x: Tensor, gate: Tensor | None) -> Tensor:
    wide = at_least_float32(x)
    return wide if gate is None else wide * gate
