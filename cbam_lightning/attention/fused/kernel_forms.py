"""The states of CBAM, SE and the end of a residual block that the Triton kernels compute.

The kernels replace the spatial gate's convolution and BatchNorm as well, so these have to be torch's own,
without hooks. Everything else runs as without kernels, see ``forms.py`` and ``block.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cbam_lightning.attention.fused.known_gates import KnownGates
from cbam_lightning.attention.fused.originals import batch_norm_kinds, is_plain, is_synchronised
from cbam_lightning.attention.implementation import Forward

if TYPE_CHECKING:
    from cbam_lightning.attention.fused.kernels.norm import Norm

MAX_CHANNELS = 4096
_MAX_IMAGES = 65535  # CUDA's limit for the second axis of a grid
# Within an image and in (8, N, C) or (5, N, positions), kernels count elements with 32 bits.
_MAX_ELEMENTS = 2**31 - 1


def kernels_for(gates: KnownGates, x: Tensor) -> Forward | None:
    """Return the forward pass in kernels, or None where they do not compute these gates for ``x``."""
    return partial(_run, gates) if _suits(gates, x) else None


def kernels_for_end(
    gates: KnownGates, u: Tensor, bn: nn.Module, shortcut: Tensor, relu: nn.Module
) -> Callable[[], Tensor] | None:
    """Return ``relu(gates(bn(u)) + shortcut)`` in kernels, or None where they do not compute it."""
    suits = (
        gates.order in ("channel-spatial", "channel")
        and u.ndim == 4
        and (u.shape, u.dtype, u.device) == (shortcut.shape, shortcut.dtype, shortcut.device)
        and is_plain(relu, nn.ReLU)
        and _has_known_state(bn, _values(u))
        and _suits(gates, u)
    )
    return partial(_run, gates, u, bn, shortcut) if suits else None


def _run(gates: KnownGates, x: Tensor, bn: Any = None, shortcut: Tensor | None = None) -> Tensor:
    # These import Triton.
    from cbam_lightning.attention.fused.kernels.operator import attend
    from cbam_lightning.attention.fused.kernels.sequence import Parameters

    gates.check(x)
    spatial: Any = gates.spatial
    parameters = Parameters(
        [] if bn is None else [bn.weight, bn.bias],
        list(gates.mlp or ()),
        [] if spatial is None else [spatial.conv.weight, spatial.bn.weight, spatial.bn.bias],
    )
    return attend(
        x,
        gates.order,
        parameters,
        norm=_state(bn),
        spatial_norm=_state(spatial and spatial.bn),
        shortcut=shortcut,
        maximum=gates.maximum,
        factor=gates.factor,
    )


def _suits(gates: KnownGates, x: Tensor) -> bool:
    spatial: Any = gates.spatial
    return (
        x.ndim > 2
        and x.shape[0] <= _MAX_IMAGES
        and 1 <= x.shape[1] <= MAX_CHANNELS
        and x.shape[2:].numel() > 0
        and 8 * x.shape[0] * x.shape[1] <= _MAX_ELEMENTS
        and 5 * _values(x) <= _MAX_ELEMENTS
        and x.shape[1:].numel() <= _MAX_ELEMENTS
        and (spatial is None or _has_known_layers(spatial, x))
        and _works_on(x.device)
    )


def _works_on(device: torch.device) -> bool:
    from cbam_lightning.attention.fused.kernels.probe import works_on  # imports Triton

    return bool(works_on(device))


def _values(x: Tensor) -> int:
    """Return the number of images times positions."""
    return x.numel() // x.shape[1]


def _has_known_layers(gate: Any, x: Tensor) -> bool:
    return (
        gate.dims in (1, 2)
        and is_plain(gate.conv, type(gate.conv))  # original already, so this asks for hooks
        and is_plain(gate.relu, nn.Identity)
        and _has_known_state(gate.bn, _values(x))
    )


def _has_known_state(bn: Any, values: int) -> bool:
    """Return whether a BatchNorm is a known one, and takes so many values a channel."""
    return (
        is_plain(bn, batch_norm_kinds())
        and isinstance(bn.weight, Tensor)
        and isinstance(bn.bias, Tensor)
        and (bn.running_mean is None or bn.num_batches_tracked is not None)
        and (not _is_synchronised(bn) or getattr(bn, "process_group", None) in (None, dist.group.WORLD))
        # Torch refuses a batch of one value. Processes that synchronise have to decide alike.
        and (values > 1 or _mode(bn) == "running" or _is_synchronised(bn))
    )


def _state(bn: Any) -> Norm:
    from cbam_lightning.attention.fused.kernels.norm import Norm

    if bn is None:
        return Norm([])
    mode = _mode(bn)
    statistics = [] if mode == "batch" else [bn.running_mean, bn.running_var, bn.num_batches_tracked]
    momentum = -1.0 if bn.momentum is None else bn.momentum
    return Norm(statistics, mode, bn.eps, momentum, _is_synchronised(bn))


def _mode(bn: Any) -> str:
    """Return which statistics are used, as in ``forward`` of torch's ``_BatchNorm``."""
    if bn.training:
        return "track" if bn.track_running_stats and bn.running_mean is not None else "batch"
    return "batch" if bn.running_mean is None else "running"


def _is_synchronised(bn: Any) -> bool:
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and bn.training and is_synchronised(bn)
