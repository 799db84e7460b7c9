"""The passes over memory of ``block.py``, compiled like those of ``passes.py``.

Shapes: u, the output of the block's last convolution, the shortcut, the block's output and their gradients
are (N, C, *positions); values for each image and channel are (N, C, 1, …), for each channel (1, C, 1, …), for
each image and position (N, 1, *positions). w is the normalised u times the channel gate:
w = (u - shift) * by + plus.
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


class Normalised(NamedTuple):
    """The results of the BatchNorm and of the channel gate after it.

    Attributes:
        shift: Mean that the BatchNorm subtracts, (1, C, 1, …).
        rstd: Reciprocal of the standard deviation that it divides by, (1, C, 1, …).
        extreme: The element of u that becomes the maximum, (N, C, 1, …).
        mean: Mean of u, (N, C, 1, …).
        gate: The channel gate, (N, C, 1, …).
        by: Factor of u - shift in w, (N, C, 1, …).
        plus: Summand in w, (N, C, 1, …).
        pooled: (K, N, C), the pools of the normalised u.
        hidden: (K, N, R), the hidden units of the MLP.
    """

    shift: Tensor
    rstd: Tensor
    extreme: Tensor
    mean: Tensor
    gate: Tensor
    by: Tensor
    plus: Tensor
    pooled: Tensor
    hidden: Tensor


@Pass
def normalise_and_reduce(
    u: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    mlp: Excitation,
    maximum: bool,
    factor: float,
) -> tuple[Normalised, Tensor, Tensor]:
    """Normalise u, and compute the channel gate and the maps of the spatial gate.

    Args:
        u: The output of the last convolution.
        statistics: Mean and variance to normalise with, (1, C, 1, …) each. None: those of ``u``.
        eps: Added to the variance.
        weight: Weight of the BatchNorm, (1, C, 1, …).
        bias: Bias of the BatchNorm, (1, C, 1, …).
        mlp: MLP of the channel gate.
        maximum: Whether the channel gate also pools the maximum, besides the mean.
        factor: A gate is this times a sigmoid.

    Returns:
        BatchNorm and channel gate; the variance, (1, C, 1, …); the maps, (N, 2, *positions).
    """
    wide = at_least_float32(u)
    # Subtract a sample of each channel first: the mean of the squares minus the square of the mean loses all
    # digits where the mean is large.
    near = wide.flatten(2)[:, :, :1].mean(0).view_as(weight)
    off = wide - near
    mean_off = over_positions(torch.mean, off)
    square_off = over_positions(torch.mean, off.square())
    near_all = beside(wide, near)
    highest, lowest = over_positions(torch.amax, near_all), over_positions(torch.amin, near_all)
    if statistics is None:
        batch_off = mean_off.mean(0, keepdim=True)
        shift, variance = near + batch_off, square_off.mean(0, keepdim=True) - batch_off.square()
    else:
        shift, variance = statistics
    rstd = torch.rsqrt(variance + eps)
    scale = weight * rstd
    extreme = torch.where(scale >= 0, highest, lowest)
    mean = near + mean_off
    pooled_from = [mean, extreme] if maximum else [mean]
    pooled = torch.stack([((value - shift) * scale + bias).flatten(1) for value in pooled_from])
    gate, hidden = excitation(pooled, mlp, factor)
    gate = gate.view_as(mean)
    shift, by, plus = stored(shift), stored(scale * gate), stored(bias * gate)
    known = Normalised(shift, rstd, extreme, mean, gate, by, plus, pooled, hidden)
    w = _gated(u, known)
    maps = torch.cat([w.amax(1, keepdim=True), w.mean(1, keepdim=True)], dim=1)
    return known, variance, maps


@Pass
def finish(u: Tensor, known: Normalised, spatial: Tensor, shortcut: Tensor) -> Tensor:
    """Return ``relu(w * spatial + shortcut)``, in the dtype of u."""
    return torch.relu(_gated(u, known) * spatial + shortcut).to(u.dtype)


@Pass
def spatial_gradient(
    u: Tensor, grad: Tensor, known: Normalised, spatial: Tensor, maps: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the spatial gate's logits, given that of ``w * spatial``.

    Returns:
        The gradient, and the share of each channel in the gradient of the maximum over the channels.
    """
    w = _gated(u, known)
    d_spatial = (w * grad).sum(1, keepdim=True)
    return logit_gradient(d_spatial, spatial, factor), share_of(w, maps[:, :1], over_channels)


@Pass
def block_gradient(
    u: Tensor,
    grad: Tensor,
    known: Normalised,
    weight: Tensor,
    bias: Tensor,
    mlp: Excitation,
    spatial: Tensor,
    maps_pool: PoolGradient,
    factor: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Excitation]:
    """Return the gradients of u, of the BatchNorm's weight and bias, (1, C, 1, …), and of the MLP."""
    wide = at_least_float32(u)
    centred = wide - known.shift
    slope = grad * spatial + through_pool(_gated(u, known), maps_pool)  # the gradient of w
    total, moment = over_positions(torch.sum, slope), over_positions(torch.sum, slope * centred)
    share = share_of(beside(wide, spatial), known.extreme, over_positions)
    scale = weight * known.rstd
    d_gate = scale * moment + bias * total
    d_mlp, d_pooled = excitation_gradient(
        d_gate.flatten(1), known.gate.flatten(1), known.pooled, known.hidden, mlp, factor
    )
    d_mean, d_peak = d_pooled[0].view_as(total), d_pooled[-1].view_as(total) * (len(d_pooled) - 1)
    # Where the scale is 0, every element is the maximum.
    at_peak = torch.where(scale == 0, known.mean, known.extreme) - known.shift
    d_bias = (known.gate * total + d_mean + d_peak).sum(0, keepdim=True)
    d_weight = known.rstd * (
        known.gate * moment + d_mean * (known.mean - known.shift) + d_peak * at_peak
    ).sum(0, keepdim=True)
    size = u.shape[2:].numel()
    everywhere = scale * d_mean / size
    if batch_statistics:
        everywhere = everywhere - scale * d_bias / (len(u) * size)
    peaks = torch.where(wide == known.extreme, stored(scale * d_peak * share), 0.0)
    d_u = known.by * slope + stored(everywhere) + peaks
    if batch_statistics:
        d_u = d_u + stored(-scale * known.rstd * d_weight / (len(u) * size)) * centred
    return d_u.to(u.dtype), d_weight, d_bias, d_mlp


def _gated(u: Tensor, known: Normalised) -> Tensor:
    """Return w."""
    return (at_least_float32(u) - known.shift) * known.by + known.plus
