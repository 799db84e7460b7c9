"""CBAM and SE in few passes over the feature map, with a hand-derived backward pass.

A gate has few operations, but the plain ones pass over the feature map many times and save several tensors
of its size for the backward pass. Here, CBAM's forward pass reads the map three times and writes one map; the
backward pass reads the map and the incoming gradient three times each and writes one. Only x is saved.

Let a be the first gate and b the last (the channel and the spatial gate, in CBAM's usual order), each made
from the maximum and the mean of its input over the axes that it does not depend on:

    out = x a b       a = gate of the pools of x       b = gate of the pools of x a (of x, if parallel)

    s  = dout b + at_peak2 [x a is its maximum] + everywhere2              the gradient of x a
    dx = s a    + at_peak1 [x is its maximum]   + everywhere1
    db = sum of dout x a       da = sum of s x       at_peak = dmax / ties       everywhere = dmean / size

The spatial gate's convolution (``convolution.py``) and BatchNorm stay in the ordinary graph, where hooks,
DistributedDataParallel and SyncBatchNorm find them. Therefore the function is split around them: ``_Reduce``
makes the maps that they receive, ``_Scale`` the product. In the backward pass, ``_Scale`` passes the incoming
gradient on unchanged, in place of that of x, leaves its results in the shared ``_AttendCall``, and
``_Reduce`` writes dx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from cbam_lightning.attention.fused import passes
from cbam_lightning.attention.fused.backward_check import check_backward
from cbam_lightning.attention.fused.operations import Excitation, PoolGradient, as_constant, maps_gradient
from cbam_lightning.attention.fused.passes import ChannelGate
from cbam_lightning.attention.gate import wide_dtype, without_autocast

_NO_GATE = (None, None, None)
_NO_MLP = (None, None, None, None)


def attend(
    x: Tensor,
    order: str,
    mlp: Excitation | None = None,
    to_logits: Callable[[Tensor], Tensor] | None = None,
    *,
    maximum: bool = True,
    factor: float = 1.0,
) -> Tensor:
    """Return ``x`` times its gates, in its dtype and memory format: (N, C, *positions) to the same.

    Args:
        x: The feature map.
        order: An ``Arrangement`` of CBAM.
        mlp: MLP of the channel gate, if there is one.
        to_logits: Computes the logits of the spatial gate, (N, 1, *positions), from the maximum and the mean
            over the channels, (N, 2, *positions), at least float32. None: no spatial gate.
        maximum: Whether the channel gate also pools the maximum, besides the mean.
        factor: A gate is this times a sigmoid.

    Raises:
        UsageError: In a backward pass with ``create_graph=True``, or for several gradients at once.
    """
    call = _AttendCall(order, maximum, factor)
    before, last = (None, mlp) if order in ("channel", "spatial-channel") else (mlp, None)
    maps, logits = None, None
    with without_autocast(x.device.type):
        if to_logits is not None:
            x, maps = _Reduce.apply(x, *(before or _NO_MLP), call)
            logits = to_logits(maps)
            maps = maps.detach()  # _Reduce uses their gradient
        output: Tensor = _Scale.apply(x, logits, *(last or _NO_MLP), maps, before, call)
    return output


@dataclass
class _AttendCall:
    """The options of one call, and the results that ``_Reduce`` and ``_Scale`` leave for each other.

    Forward, ``_Reduce`` leaves a channel gate that comes first. Backward, ``_Scale`` leaves its saved tensors
    and the gradients of the pools.
    """

    order: str
    maximum: bool
    factor: float
    channel: ChannelGate | None = None
    saved: Any = None
    share: Any = None  # share of each channel in the gradient of the maximum
    channel_pool: PoolGradient | None = None


class _SavedTensors:
    """Everything saved for the backward pass; only x has the size of a feature map."""

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        # Any: which of them are None depends on the order of the gates.
        detached: list[Any] = [None if tensor is None else tensor.detach() for tensor in tensors]
        self.x, self.maps, self.spatial, *rest = detached
        self.channel: Any = None if rest[0] is None else ChannelGate(*rest[:3])
        self.channel_gate: Any = rest[0]
        self.mlp: Any = as_constant(rest[3:], wide_dtype(self.x))


class _Reduce(Function):
    """Map x to itself and the maps of the spatial gate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *mlp, call = rest
        ctx.call = call
        maps, call.channel = passes.reduce(
            x.detach(), as_constant(mlp, wide_dtype(x)), call.maximum, call.factor, call.order != "parallel"
        )
        return x, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        call, saved, channel_pool = ctx.call, ctx.call.saved, ctx.call.channel_pool
        maps_pool = maps_gradient(saved.maps, d_maps, call.share, saved.x.shape[1])
        call.saved = call.share = call.channel_pool = None
        x, spatial = saved.x, saved.spatial
        if call.order in ("channel-spatial", "parallel"):
            d_x, d_mlp = passes.first_channel_gradient(
                x, grad, saved.channel, saved.mlp, spatial, maps_pool, call.factor, call.order
            )
            return d_x, *d_mlp, None
        d_x = passes.input_gradient(x, grad, saved.channel_gate, channel_pool, spatial, maps_pool, call.order)
        return d_x, *_NO_MLP, None


class _Scale(Function):
    """Map x and the logits of the spatial gate to the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor | None, *rest: Any) -> Tensor:
        *mlp, maps, mlp_before, call = rest
        channel, call.channel = call.channel, None
        spatial = None if logits is None else call.factor * torch.sigmoid(logits.detach())
        excitation = as_constant(mlp, wide_dtype(x))
        if excitation is None:
            output = passes.scale(x.detach(), channel and channel.gate, spatial)
        else:
            output, channel = passes.excite(x.detach(), spatial, excitation, call.maximum, call.factor)
        ctx.call = call
        ctx.save_for_backward(x, maps, spatial, *(channel or _NO_GATE), *(mlp_before or mlp))
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        check_backward(grad)
        call = ctx.call
        call.saved = saved = _SavedTensors(ctx.saved_tensors)
        x, spatial, maps = saved.x, saved.spatial, saved.maps
        d_mlp: Any = _NO_MLP
        d_logits = None
        if call.order == "channel":
            call.saved = None
            grad, d_mlp = passes.lone_channel_gradient(x, grad, saved.channel, saved.mlp, call.factor)
        elif call.order == "spatial-channel":
            d_mlp, call.channel_pool = passes.last_channel_gradient(
                x, grad, spatial, saved.channel, saved.mlp, call.factor
            )
            d_logits, call.share = passes.first_spatial_gradient(
                x, grad, spatial, saved.channel_gate, call.channel_pool, maps, call.factor
            )
        else:
            d_logits, call.share = passes.last_spatial_gradient(
                x, grad, saved.channel_gate, spatial, maps, call.factor, call.order != "parallel"
            )
        return grad, d_logits, *d_mlp, None, None, None
