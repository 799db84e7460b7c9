"""The states of CBAM, SE and the end of a residual block that the Triton kernels compute.

The kernels replace the spatial gate's convolution and BatchNorm as well, so these have to be torch's own,
without hooks. Everything else runs as without kernels, see ``forms.py`` and ``block.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cbam_lightning.attention.fused.known_gates import KnownGates
from cbam_lightning.attention.fused.norm import Norm
from cbam_lightning.attention.fused.originals import batch_norm_kinds, has_hooks, is_plain, is_synchronised
from cbam_lightning.attention.implementation import Forward

MAX_CHANNELS = 4096
_MAX_IMAGES = 65535  # CUDA's limit for the second axis of a grid
# Within an image and in (8, N, C) or (5, N, positions), kernels count elements with 32 bits.
_MAX_ELEMENTS = 2**31 - 1


def kernels_for(gates: KnownGates, x: Tensor) -> Forward | None:
    """Return the forward pass in kernels, or None where they do not compute these gates for ``x``."""
    norms = _norms(gates, x)
    return None if norms is None else partial(_run, gates, norms)


def kernels_for_end(
    gates: KnownGates, u: Tensor, bn: nn.Module, shortcut: Tensor, relu: nn.Module
) -> Callable[[], Tensor] | None:
    """Return ``relu(gates(bn(u)) + shortcut)`` in kernels, or None where they do not compute it."""
    suits = (
        gates.order in ("channel-spatial", "channel")
        and u.ndim == 4
        and u.shape == shortcut.shape
        and (u.dtype, u.device) == (shortcut.dtype, shortcut.device)
        and is_plain(relu, nn.ReLU)
    )
    norms = _norms(gates, u, bn) if suits else None
    return None if norms is None else partial(_run, gates, norms, u, shortcut)


class _KnownNorm(NamedTuple):
    """Weight and bias of a BatchNorm, and the rest of it; an empty list if there is none."""

    parameters: list[Tensor]
    rest: Norm


_NO_NORM = _KnownNorm([], Norm([]))


def _run(
    gates: KnownGates, norms: tuple[_KnownNorm, _KnownNorm], x: Tensor, shortcut: Tensor | None = None
) -> Tensor:
    # These import Triton.
    from cbam_lightning.attention.fused.kernels.operator import attend
    from cbam_lightning.attention.fused.kernels.sequence import Parameters

    gates.check(x)
    norm, spatial_norm = norms
    spatial: Any = gates.spatial
    weight = [] if spatial is None else [spatial._modules["conv"].weight]
    parameters = Parameters(norm.parameters, list(gates.mlp or ()), weight + spatial_norm.parameters)
    return attend(
        x,
        gates.order,
        parameters,
        norm=norm.rest,
        spatial_norm=spatial_norm.rest,
        shortcut=shortcut,
        maximum=gates.maximum,
        factor=gates.factor,
    )


def _norms(gates: KnownGates, x: Tensor, bn: Any = None) -> tuple[_KnownNorm, _KnownNorm] | None:
    """Return the BatchNorm before the gates and that of the spatial gate, or None if not all is known."""
    if not (_has_known_size(x) and _works_on(x.device)):
        return None
    values = x.numel() // x.shape[1]  # a channel: images times positions
    norm = _NO_NORM if bn is None else _known_norm(bn, values)
    spatial_norm: _KnownNorm | None = _NO_NORM
    spatial: Any = gates.spatial
    if spatial is not None:
        parts = spatial._modules
        # The convolution is original already, so this asks for hooks.
        if spatial.dims not in (1, 2) or has_hooks(parts["conv"]) or not is_plain(parts["relu"], nn.Identity):
            return None
        spatial_norm = _known_norm(parts["bn"], values)
    return None if norm is None or spatial_norm is None else (norm, spatial_norm)


def _has_known_size(x: Tensor) -> bool:
    if x.ndim < 3:
        return False
    n, c, elements = x.shape[0], x.shape[1], x.numel()
    return (
        n <= _MAX_IMAGES
        and 1 <= c <= MAX_CHANNELS
        and x.shape[2:].numel() > 0
        and 8 * n * c <= _MAX_ELEMENTS
        and 5 * (elements // c) <= _MAX_ELEMENTS
        and elements // max(n, 1) <= _MAX_ELEMENTS
    )


def _works_on(device: torch.device) -> bool:
    from cbam_lightning.attention.fused.kernels.probe import works_on  # imports Triton

    return bool(works_on(device))


def _known_norm(bn: Any, values: int) -> _KnownNorm | None:
    """Return a BatchNorm if it is a known one, and takes so many values a channel."""
    if not is_plain(bn, batch_norm_kinds()):
        return None
    # Straight from where they are kept: this runs at every call of a module.
    parameters, buffers = bn._parameters, bn._buffers
    weight, bias = parameters.get("weight"), parameters.get("bias")
    mean, variance, batches = map(buffers.get, ("running_mean", "running_var", "num_batches_tracked"))
    if weight is None or bias is None:
        return None
    mode, synchronised = _mode(bn, mean), _is_synchronised(bn)
    # Torch refuses a batch of one value. Processes that synchronise have to decide alike.
    enough = values > 1 or mode == "running" or synchronised
    over_all = not synchronised or getattr(bn, "process_group", None) in (None, dist.group.WORLD)
    if not (enough and over_all and (mean is None or batches is not None)):
        return None
    statistics = [] if mode == "batch" else [mean, variance, batches]
    momentum = -1.0 if bn.momentum is None else bn.momentum
    return _KnownNorm([weight, bias], Norm(statistics, mode, bn.eps, momentum, synchronised))


def _mode(bn: Any, running_mean: Tensor | None) -> str:
    """Return which statistics are used, as in ``forward`` of torch's ``_BatchNorm``."""
    if bn.training:
        return "track" if bn.track_running_stats and running_mean is not None else "batch"
    return "batch" if running_mean is None else "running"


def _is_synchronised(bn: Any) -> bool:
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and bn.training and is_synchronised(bn)
