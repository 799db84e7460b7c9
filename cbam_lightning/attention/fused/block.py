"""The end of a residual block, relu(CBAM(BatchNorm(u)) + shortcut), as one function.

A plain block keeps u for its BatchNorm and the output for its ReLU; this function keeps the same two, so CBAM
costs no further memory. The BatchNorm's statistics and both pools of the channel gate come from one pass over
u, as the maximum of the normalised values is that of u, or its minimum where the BatchNorm's weight is
negative. The product, the addition and the ReLU are one more pass.

With z = (u - shift) weight rstd + bias, w = z a for the channel gate a, and the notation of ``attend.py``,
s is the gradient of w and dz = s a + at_peak1 [z is its maximum] + everywhere1. Its sums over the positions,
which the gradients of the BatchNorm ask for, follow from those of s and of s (u - shift):

    du = weight rstd (dz - mean of dz - (u - shift) rstd^2 mean of dz (u - shift))

with the means taken over images and positions (https://arxiv.org/abs/1502.03167, section 3), and without the
last two terms where the BatchNorm uses its running statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cbam_lightning.attention.cbam import CBAM
from cbam_lightning.attention.fused import block_passes
from cbam_lightning.attention.fused.attend import refuse_second_derivative
from cbam_lightning.attention.fused.block_passes import Normalised
from cbam_lightning.attention.fused.excitation import as_constant
from cbam_lightning.attention.fused.pools import maps_gradient
from cbam_lightning.attention.gate import has_hooks, wide_dtype, without_autocast
from cbam_lightning.attention.implementation import runs_fused


def finish_block(u: Tensor, bn: nn.Module, attention: nn.Module, shortcut: Tensor, relu: nn.Module) -> Tensor:
    """Return ``relu(attention(bn(u)) + shortcut)``, as one function where that is possible and pays.

    It is for a CBAM that runs fused for ``u`` (see ``runs_fused``), with the channel gate first, behind a
    ``BatchNorm2d`` that is not synchronised, while nobody watches one of the modules by a hook.

    Args:
        u: The output of the block's last convolution, (N, C, *positions).
        bn: The BatchNorm after it.
        attention: Any module from (N, C, *positions) to the same.
        shortcut: Of the shape of ``u``.
        relu: The activation.
    """
    if isinstance(attention, CBAM) and _is_possible(u, bn, attention, shortcut, relu):
        return _finish_fused(u, bn, attention, shortcut)
    output: Tensor = relu(attention(bn(u)) + shortcut)
    return output


def _is_possible(u: Tensor, bn: nn.Module, attention: CBAM, shortcut: Tensor, relu: nn.Module) -> bool:
    return (
        runs_fused(attention, attention.implementation, u)
        and attention.has_fused_form
        and attention.arrangement == "channel-spatial"
        and attention.spatial.dims == 2
        and u.ndim == 4
        and (type(bn), type(attention), type(relu)) == (nn.BatchNorm2d, CBAM, nn.ReLU)
        and bn.weight is not None
        and u.shape == shortcut.shape
        and u.dtype == shortcut.dtype
        and (u.numel() > u.shape[1] or not _takes_batch_statistics(bn))  # else the BatchNorm refuses u
        and not any(map(has_hooks, (bn, attention, relu)))
    )


def _finish_fused(u: Tensor, bn: Any, attention: CBAM, shortcut: Tensor) -> Tensor:
    channel = attention.channel
    ledger = _Ledger("max" in channel.pools, channel.factor, _takes_batch_statistics(bn))
    with without_autocast(u.device.type):
        u, maps = _NormaliseAndReduce.apply(u, bn.weight, bn.bias, *channel.excitation, bn, ledger)
        logits = attention.spatial.fused_logits(maps)
        parameters = (bn.weight, bn.bias, *channel.excitation)
        output: Tensor = _ScaleAddRelu.apply(u, logits, shortcut, maps.detach(), parameters, ledger)
    return output


@dataclass
class _Ledger:
    """What is fixed at the call, and what the two functions leave for one another, as in ``attend.py``."""

    maximum: bool
    factor: float
    batch_statistics: bool
    normalised: Any = None
    saved: Any = None
    share: Any = None


class _Saved:
    """What is kept for the backward pass; only u and the output are of their size."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.u, self.output, self.maps, self.spatial, *rest = (tensor.detach() for tensor in tensors)
        self.normalised = Normalised(*rest[:9])
        self.weight, self.bias = (_per_channel(value, self.u) for value in rest[9:11])
        self.mlp = as_constant(rest[11:], wide_dtype(self.u))


class _NormaliseAndReduce(Function):
    """From u to itself and the maps of the spatial gate."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *mlp, bn, ledger = rest
        ctx.ledger = ledger
        given = None
        if not ledger.batch_statistics:
            given = (_per_channel(bn.running_mean, u), _per_channel(bn.running_var, u))
        ledger.normalised, variance, maps = block_passes.normalise_and_reduce(
            u.detach(),
            given,
            bn.eps,
            _per_channel(weight, u),
            _per_channel(bias, u),
            as_constant(mlp, wide_dtype(u)),
            ledger.maximum,
            ledger.factor,
        )
        if bn.training:
            _update_running_statistics(bn, ledger.normalised.shift, variance, u.numel() // u.shape[1])
        return u, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        ledger, saved = ctx.ledger, ctx.ledger.saved
        maps_pool = maps_gradient(saved.maps, d_maps, ledger.share, saved.u.shape[1])
        ledger.saved = ledger.share = None
        d_u, d_weight, d_bias, d_mlp = block_passes.block_gradient(
            saved.u,
            grad,
            saved.normalised,
            saved.weight,
            saved.bias,
            saved.mlp,
            saved.spatial,
            maps_pool,
            ledger.factor,
            ledger.batch_statistics,
        )
        return d_u, d_weight.flatten(), d_bias.flatten(), *d_mlp, None, None


class _ScaleAddRelu(Function):
    """From u, the logits of the spatial gate and the shortcut to the block's output."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        logits: Tensor,
        shortcut: Tensor,
        maps: Tensor,
        parameters: tuple[Tensor, ...],
        ledger: _Ledger,
    ) -> Tensor:
        known, ledger.normalised = ledger.normalised, None
        ctx.ledger = ledger
        spatial = ledger.factor * torch.sigmoid(logits.detach())
        output = block_passes.finish(
            u.detach(), known.shift, known.by, known.plus, spatial, shortcut.detach()
        )
        ctx.save_for_backward(u, output, maps, spatial, *known, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        ledger = ctx.ledger
        ledger.saved = saved = _Saved(ctx.saved_tensors)
        grad = torch.ops.aten.threshold_backward(d_output, saved.output, 0)  # that of the ReLU
        d_logits, ledger.share = block_passes.spatial_gradient(
            saved.u,
            grad,
            saved.normalised.shift,
            saved.normalised.by,
            saved.normalised.plus,
            saved.spatial,
            saved.maps,
            ledger.factor,
        )
        return grad, d_logits, grad, None, None, None


def _per_channel(values: Tensor, u: Tensor) -> Tensor:
    """Shape (C,) for the channels of u, at least float32."""
    return values.detach().to(wide_dtype(u)).view(1, -1, *[1] * (u.ndim - 2))


def _takes_batch_statistics(bn: Any) -> bool:
    return bn.training or bn.running_mean is None


def _update_running_statistics(bn: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Do what ``nn.BatchNorm2d`` does to its buffers."""
    if bn.running_mean is None or not bn.track_running_stats:
        return
    bn.num_batches_tracked.add_(1)
    momentum = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    bn.running_mean.lerp_(mean.flatten().to(bn.running_mean.dtype), momentum)
    bn.running_var.lerp_((variance.flatten() * (count / (count - 1))).to(bn.running_var.dtype), momentum)
