"""CBAM and SE in few passes over the feature map, with a backward pass derived by hand.

A gate takes few operations, but written down plainly it goes over the feature map many times and keeps
several tensors of its size for the backward pass. Here CBAM reads the map three times and writes one; the
backward pass reads the map and the incoming gradient three times each, and writes one. Only x is kept.

With x, the first gate a and the last gate b (the channel and the spatial gate, in CBAM's usual order), each
made from the maximum and the mean over the axes that it does not depend on:

    out = x a b       a = gate of the pools of x       b = gate of the pools of x a (of x, if parallel)

    s  = dout b + at_peak2 [x a is its maximum] + everywhere2              the gradient of x a
    dx = s a    + at_peak1 [x is its maximum]   + everywhere1
    db = sum of dout x a       da = sum of s x       at_peak = dmax / ties       everywhere = dmean / size

The spatial gate's convolution (``convolution.py``) and BatchNorm stay in the ordinary graph, so that their
hooks, DistributedDataParallel and SyncBatchNorm see them as ever. For that the function is cut in two around
them: ``_Reduce`` makes the maps that they get, ``_Scale`` the product. Backward, ``_Scale`` hands the
incoming gradient on as it is, in the place of x's, leaves what it knows in a shared ``_Ledger``, and
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
from cbam_lightning.attention.fused.excitation import Excitation, as_constant
from cbam_lightning.attention.fused.passes import ChannelGate
from cbam_lightning.attention.fused.pools import PoolGradient, maps_gradient
from cbam_lightning.attention.gate import wide_dtype, without_autocast
from cbam_lightning.errors import UsageError

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
        mlp: Of the channel gate, if there is one.
        to_logits: Makes the logits of the spatial gate, (N, 1, *positions), from the maximum and the mean
            over the channels, (N, 2, *positions), at least float32.
        maximum: Whether the channel gate pools the maximum, not only the mean.
        factor: A gate is this times a sigmoid.

    Raises:
        UsageError: In the backward pass, if it is to be differentiated again (``create_graph=True``).
    """
    ledger = _Ledger(order, maximum, factor)
    before, last = (None, mlp) if order in ("channel", "spatial-channel") else (mlp, None)
    maps, logits = None, None
    with without_autocast(x.device.type):
        if to_logits is not None:
            x, maps = _Reduce.apply(x, *(before or _NO_MLP), ledger)
            logits = to_logits(maps)
            maps = maps.detach()  # their gradient is _Reduce's to use
        output: Tensor = _Scale.apply(x, logits, *(last or _NO_MLP), maps, before, ledger)
    return output


def refuse_second_derivative() -> None:
    """Raise a ``UsageError`` in a backward pass that is itself to be differentiated."""
    if torch.is_grad_enabled():
        message = (
            "fused attention has no second derivative, but its backward pass was asked for a graph "
            "(create_graph=True). Give the attention the option implementation='reference'."
        )
        raise UsageError(message)


@dataclass
class _Ledger:
    """What is fixed at the call, and what the functions leave for one another.

    Forward, ``_Reduce`` leaves a channel gate that comes first. Backward, ``_Scale`` leaves what it had saved
    and what it found out about the pools.
    """

    order: str
    maximum: bool
    factor: float
    channel: ChannelGate | None = None
    saved: Any = None
    share: Any = None  # of each channel in the gradient of the maximum over them
    channel_pool: PoolGradient | None = None

    @property
    def sequential(self) -> bool:
        return self.order != "parallel"


class _Saved:
    """All that is kept for the backward pass; only x is of its size."""

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        # Any, since the order of the gates says which of them are None.
        detached: list[Any] = [None if tensor is None else tensor.detach() for tensor in tensors]
        x, maps, spatial, *rest = detached
        self.x: Any = x
        self.maps: Any = maps
        self.spatial: Any = spatial
        self.channel: Any = None if rest[0] is None else ChannelGate(*rest[:3])
        self.channel_gate: Any = rest[0]
        self.mlp: Any = as_constant(rest[3:], wide_dtype(x))


class _Reduce(Function):
    """From x to itself and the maps of the spatial gate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *mlp, ledger = rest
        ctx.ledger = ledger
        maps, ledger.channel = passes.reduce(
            x.detach(), as_constant(mlp, wide_dtype(x)), ledger.maximum, ledger.factor, ledger.sequential
        )
        return x, maps

    @staticmethod
    def backward(ctx: Any, grad: Tensor, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        ledger, saved, channel_pool = ctx.ledger, ctx.ledger.saved, ctx.ledger.channel_pool
        maps_pool = maps_gradient(saved.maps, d_maps, ledger.share, saved.x.shape[1])
        ledger.saved = ledger.share = ledger.channel_pool = None
        x, spatial = saved.x, saved.spatial
        if ledger.order in ("channel-spatial", "parallel"):
            d_x, d_mlp = passes.first_channel_gradient(
                x, grad, saved.channel, saved.mlp, spatial, maps_pool, ledger.factor, ledger.order
            )
            return d_x, *d_mlp, None
        d_x = passes.input_gradient(
            x, grad, saved.channel_gate, channel_pool, spatial, maps_pool, ledger.order
        )
        return d_x, *_NO_MLP, None


class _Scale(Function):
    """From x and the logits of the spatial gate to the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor | None, *rest: Any) -> Tensor:
        *mlp, maps, mlp_before, ledger = rest
        channel, ledger.channel = ledger.channel, None
        spatial = None if logits is None else ledger.factor * torch.sigmoid(logits.detach())
        excitation = as_constant(mlp, wide_dtype(x))
        if excitation is None:
            output = passes.scale(x.detach(), channel and channel.gate, spatial)
        else:
            output, channel = passes.excite(x.detach(), spatial, excitation, ledger.maximum, ledger.factor)
        ctx.ledger = ledger
        ctx.save_for_backward(x, maps, spatial, *(channel or _NO_GATE), *(mlp_before or mlp))
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        ledger = ctx.ledger
        ledger.saved = saved = _Saved(ctx.saved_tensors)
        x, spatial, maps = saved.x, saved.spatial, saved.maps
        d_mlp: Any = _NO_MLP
        d_logits = None
        if ledger.order == "channel":
            ledger.saved = None
            grad, d_mlp = passes.lone_channel_gradient(x, grad, saved.channel, saved.mlp, ledger.factor)
        elif ledger.order == "spatial-channel":
            d_mlp, ledger.channel_pool = passes.last_channel_gradient(
                x, grad, spatial, saved.channel, saved.mlp, ledger.factor
            )
            d_logits, ledger.share = passes.first_spatial_gradient(
                x, grad, spatial, saved.channel_gate, ledger.channel_pool, maps, ledger.factor
            )
        else:
            d_logits, ledger.share = passes.last_spatial_gradient(
                x, grad, saved.channel_gate, spatial, maps, ledger.factor, ledger.sequential
            )
        return grad, d_logits, *d_mlp, None, None, None
