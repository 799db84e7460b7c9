"""The passes over memory of ``block.py``, compiled like those of ``passes.py``.

Shapes: u, the output of the block's last convolution, the shortcut, the block's output and their gradients
are (N, C, *positions); what belongs to an image and a channel is (N, C, 1, …), to a channel (1, C, 1, …), to
an image and a position (N, 1, *positions). w is the normalised u times the channel gate. A shift, a factor
``by`` and a summand ``plus`` make w from u: (u - shift) * by + plus.
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


class Normalised(NamedTuple):
    """What there is to know of the BatchNorm and of the channel gate after it.

    Attributes:
        shift: The mean that the BatchNorm subtracts, (1, C, 1, …).
        rstd: The reciprocal of the standard deviation that it divides by, (1, C, 1, …).
        extreme: The element of u that becomes the maximum, (N, C, 1, …).
        mean: The mean of u, (N, C, 1, …).
        gate: The channel gate, (N, C, 1, …).
        by: What u - shift is multiplied with to give w, (N, C, 1, …).
        plus: What is added then.
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
    given: tuple[Tensor, Tensor] | None,
    eps: float,
    weight: Tensor,
    bias: Tensor,
    mlp: Excitation,
    maximum: bool,
    factor: float,
) -> tuple[Normalised, Tensor, Tensor]:
    """Return what there is to know of the BatchNorm and the channel gate, the variance, and the maps.

    Args:
        u: The output of the last convolution.
        given: Mean and variance to normalise with; None for those of ``u``.
        eps: Added to the variance.
        weight: Of the BatchNorm, as the next one (1, C, 1, …).
        bias: Of the BatchNorm.
        mlp: Of the channel gate.
        maximum: Whether the channel gate pools the maximum, not only the mean.
        factor: What the sigmoid is multiplied with to give a gate.

    Returns:
        The first of them; the variance of ``u``, (1, C, 1, …); the maps of the spatial gate.
    """
    wide = at_least_float32(u)
    # A sample of each channel near its mean: the mean of the squares minus the square of the mean would lose
    # all digits where the mean is large.
    near = wide.flatten(2)[:, :, :1].mean(0).view_as(weight)
    off = wide - near
    mean_off = over_positions(torch.mean, off)
    square_off = over_positions(torch.mean, off.square())
    near_all = beside(wide, near)
    highest, lowest = over_positions(torch.amax, near_all), over_positions(torch.amin, near_all)
    if given is None:
        batch_off = mean_off.mean(0, keepdim=True)
        shift, variance = near + batch_off, square_off.mean(0, keepdim=True) - batch_off.square()
    else:
        shift, variance = given
    rstd = torch.rsqrt(variance + eps)
    scale = weight * rstd
    extreme = torch.where(scale >= 0, highest, lowest)
    mean = near + mean_off
    pooled_from = [mean, extreme] if maximum else [mean]
    pooled = torch.stack([((value - shift) * scale + bias).flatten(1) for value in pooled_from])
    gate, hidden = excitation(pooled, mlp, factor)
    gate = gate.view_as(mean)
    shift, by, plus = stored(shift), stored(scale * gate), stored(bias * gate)
    w = _gated(u, shift, by, plus)
    maps = torch.cat([w.amax(1, keepdim=True), w.mean(1, keepdim=True)], dim=1)
    return Normalised(shift, rstd, extreme, mean, gate, by, plus, pooled, hidden), variance, maps


@Pass
def finish(u: Tensor, shift: Tensor, by: Tensor, plus: Tensor, spatial: Tensor, shortcut: Tensor) -> Tensor:
    """Return ``relu(w * spatial + shortcut)``, in the dtype of u."""
    return torch.relu(_gated(u, shift, by, plus) * spatial + shortcut).to(u.dtype)


@Pass
def spatial_gradient(
    u: Tensor,
    grad: Tensor,
    shift: Tensor,
    by: Tensor,
    plus: Tensor,
    spatial: Tensor,
    maps: Tensor,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Differentiate ``w * spatial``, whose gradient is ``grad``, by the logits of the spatial gate.

    Returns:
        Their gradient, and the share of each channel in the gradient of the maximum over them.
    """
    w = _gated(u, shift, by, plus)
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
    """Differentiate by u, by the BatchNorm's weight and bias, (1, C, 1, …), and by the MLP."""
    wide = at_least_float32(u)
    centred = wide - known.shift
    slope = _slope(u, grad, known.shift, known.by, known.plus, spatial, maps_pool)
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


def _gated(u: Tensor, shift: Tensor, by: Tensor, plus: Tensor) -> Tensor:
    """Return w."""
    return (at_least_float32(u) - shift) * by + plus


def _slope(
    u: Tensor,
    grad: Tensor,
    shift: Tensor,
    by: Tensor,
    plus: Tensor,
    spatial: Tensor,
    maps_pool: PoolGradient,
) -> Tensor:
    """Return the gradient of w."""
    return grad * spatial + through_pool(_gated(u, shift, by, plus), maps_pool)
