"""The end of a residual block, relu(CBAM(BatchNorm(u)) + shortcut), as one function.

A plain block saves u for its BatchNorm and the output for its ReLU. This function saves the same two, so CBAM
costs no further memory. One pass over u gives the BatchNorm's statistics and both pools of the channel gate:
the maximum of the normalised values is at the maximum of u, or at its minimum where the BatchNorm's weight is
negative. Product, addition and ReLU are one more pass.

With z = (u - shift) weight rstd + bias, w = z a for the channel gate a, and the notation of ``attend.py``,
s is the gradient of w and dz = s a + at_peak1 [z is its maximum] + everywhere1. The sums of dz over the
positions, which the gradients of the BatchNorm need, follow from those of s and of s (u - shift):

    du = weight rstd (dz - mean of dz - (u - shift) rstd^2 mean of dz (u - shift))

The means are over images and positions (https://arxiv.org/abs/1502.03167, section 3). The last two terms
vanish where the BatchNorm uses its running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cbam_lightning.attention.cbam import CBAM
from cbam_lightning.attention.fused import block_passes
from cbam_lightning.attention.fused.backward_check import check_backward
from cbam_lightning.attention.fused.block_passes import Normalised
from cbam_lightning.attention.fused.forms import spatial_logits
from cbam_lightning.attention.fused.kernel_forms import kernels_for_end
from cbam_lightning.attention.fused.known_gates import known_gates, mlp_of
from cbam_lightning.attention.fused.operations import as_constant, maps_gradient
from cbam_lightning.attention.fused.originals import is_plain
from cbam_lightning.attention.gate import wide_dtype, without_autocast
from cbam_lightning.attention.implementation import Module, fused_form, needs_reference, runs_kernels
from cbam_lightning.attention.squeeze_excite import SqueezeExcite


def fuse_end(forward: Callable[[Module, Tensor], Tensor]) -> Callable[[Module, Tensor], Tensor]:
    """Decorate the ``forward`` of a residual block: with CBAM or SE, run its end as one function.

    Where ``finish_block`` does not fuse, it runs the same operations as ``forward``. The block is a basic or
    a bottleneck block with torchvision's names of layers, and an ``attention`` after the last BatchNorm.
    """

    @wraps(forward)
    def run(self: Module, x: Tensor) -> Tensor:
        attention = self.attention
        if type(attention) in (CBAM, SqueezeExcite) and _may_fuse(attention, x):
            return _run_block(self, x)
        return forward(self, x)

    return run


def _may_fuse(attention: Any, x: Tensor) -> bool:
    if runs_kernels(attention, x):
        return True
    return type(attention) is CBAM and attention.implementation != "reference" and not needs_reference(x)


def _run_block(block: Any, x: Tensor) -> Tensor:
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, "conv3"):
        layers.append((block.conv3, block.bn3))
    *inner, (last_conv, last_bn) = layers
    u = x
    for conv, bn in inner:
        u = block.relu(bn(conv(u)))
    return finish_block(last_conv(u), last_bn, block.attention, block.downsample(x), block.relu)


def finish_block(u: Tensor, bn: nn.Module, attention: nn.Module, shortcut: Tensor, relu: nn.Module) -> Tensor:
    """Return ``relu(attention(bn(u)) + shortcut)``, as one function where that is possible and pays.

    The attention has to be a CBAM with the channel gate first that runs fused for ``u``, and no module may
    have a hook or a replaced method. The BatchNorm has to be a ``BatchNorm2d``; in Triton kernels it may be
    synchronised, and the attention may be an SE or a CBAM with the channel gate alone.

    Args:
        u: Output of the block's last convolution, (N, C, *positions).
        bn: The BatchNorm after it.
        attention: Any module from (N, C, *positions) to the same.
        shortcut: Has the shape of ``u``.
        relu: The activation.
    """
    if is_plain(attention, (CBAM, SqueezeExcite)) and runs_kernels(attention, u):
        gates = known_gates(attention)
        kernels = None if gates is None else kernels_for_end(gates, u, bn, shortcut, relu)
        if kernels is not None:
            return kernels()
    elif isinstance(attention, CBAM) and _is_possible(u, bn, attention, shortcut, relu):
        return _finish_fused(u, bn, attention, shortcut)
    output: Tensor = relu(attention(bn(u)) + shortcut)
    return output


def _is_possible(u: Tensor, bn: nn.Module, attention: CBAM, shortcut: Tensor, relu: nn.Module) -> bool:
    return (
        fused_form(attention, u) is not None
        and attention.arrangement == "channel-spatial"
        and attention.spatial.dims == 2
        and u.ndim == 4
        and all(map(is_plain, (bn, attention, relu), (nn.BatchNorm2d, CBAM, nn.ReLU)))
        and isinstance(bn.weight, Tensor)
        and isinstance(bn.bias, Tensor)
        and u.shape == shortcut.shape
        and u.dtype == shortcut.dtype
        and (u.numel() > u.shape[1] or not _uses_batch_statistics(bn))  # else the BatchNorm raises
    )


def _finish_fused(u: Tensor, bn: Any, attention: CBAM, shortcut: Tensor) -> Tensor:
    channel, mlp = attention.channel, mlp_of(attention.channel)
    call = _BlockCall("max" in channel.pools, channel.factor, _uses_batch_statistics(bn))
    with without_autocast(u.device.type):
        u, maps = _NormaliseAndReduce.apply(u, bn.weight, bn.bias, *mlp, bn, call)
        logits = spatial_logits(attention.spatial, maps)
        parameters = (bn.weight, bn.bias, *mlp)
        output: Tensor = _ScaleAddRelu.apply(u, logits, shortcut, maps.detach(), parameters, call)
    return output


@dataclass
class _BlockCall:
    """The options of one call, and the results that the two functions leave for each other."""

    maximum: bool
    factor: float
    batch_statistics: bool
    normalised: Any = None
    saved: Any = None
    share: Any = None


class _SavedBlock:
    """Everything saved for the backward pass; only u and the output have the size of a feature map."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.u, self.output, self.maps, self.spatial, *rest = (tensor.detach() for tensor in tensors)
        self.normalised = Normalised(*rest[:9])
        self.weight, self.bias = (_per_channel(value, self.u) for value in rest[9:11])
        self.mlp = as_constant(rest[11:], wide_dtype(self.u))


class _NormaliseAndReduce(Function):
    """Map u to itself and the maps of the spatial gate."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *mlp, bn, call = rest
        ctx.call = call
        statistics = None
        if not call.batch_statistics:
            statistics = (_per_channel(bn.running_mean, u), _per_channel(bn.running_var, u))
        call.normalised, variance, maps = block_passes.normalise_and_reduce(
            u.detach(),
            statistics,
            bn.eps,
            _per_channel(weight, u),
            _per_channel(bias, u),
            as_constant(mlp, wide_dtype(u)),
            call.maximum,
            call.factor,
        )
        if bn.training:
            _update_running_statistics(bn, call.normalised.shift, variance, u.numel() // u.shape[1])
        return u, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        call, saved = ctx.call, ctx.call.saved
        maps_pool = maps_gradient(saved.maps, d_maps, call.share, saved.u.shape[1])
        call.saved = call.share = None
        d_u, d_weight, d_bias, d_mlp = block_passes.block_gradient(
            saved.u,
            grad,
            saved.normalised,
            saved.weight,
            saved.bias,
            saved.mlp,
            saved.spatial,
            maps_pool,
            call.factor,
            call.batch_statistics,
        )
        return d_u, d_weight.flatten(), d_bias.flatten(), *d_mlp, None, None


class _ScaleAddRelu(Function):
    """Map u, the logits of the spatial gate and the shortcut to the block's output."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        logits: Tensor,
        shortcut: Tensor,
        maps: Tensor,
        parameters: tuple[Tensor, ...],
        call: _BlockCall,
    ) -> Tensor:
        known, call.normalised = call.normalised, None
        ctx.call = call
        spatial = call.factor * torch.sigmoid(logits.detach())
        output = block_passes.finish(u.detach(), known, spatial, shortcut.detach())
        ctx.save_for_backward(u, output, maps, spatial, *known, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        check_backward(d_output)
        call = ctx.call
        call.saved = saved = _SavedBlock(ctx.saved_tensors)
        grad = torch.ops.aten.threshold_backward(d_output, saved.output, 0)  # through the ReLU
        d_logits, call.share = block_passes.spatial_gradient(
            saved.u, grad, saved.normalised, saved.spatial, saved.maps, call.factor
        )
        return grad, d_logits, grad, None, None, None


def _per_channel(values: Tensor, u: Tensor) -> Tensor:
    """Reshape (C,) to (1, C, 1, …) for the channels of u, at least float32."""
    return values.detach().to(wide_dtype(u)).view(1, -1, *[1] * (u.ndim - 2))


def _uses_batch_statistics(bn: Any) -> bool:
    return bn.training or bn.running_mean is None


def _update_running_statistics(bn: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update the buffers as ``nn.BatchNorm2d`` does."""
    if bn.running_mean is None or not bn.track_running_stats:
        return
    bn.num_batches_tracked.add_(1)
    momentum = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    bn.running_mean.lerp_(mean.flatten().to(bn.running_mean.dtype), momentum)
    bn.running_var.lerp_((variance.flatten() * (count / (count - 1))).to(bn.running_var.dtype), momentum)
