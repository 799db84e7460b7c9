"""Pools of a feature map over its positions or channels, with sums in at least float32.

Each takes a map in any precision, the axes to pool over, and whether they are kept with size 1. ``mean`` and
``maximum`` make no wider copy of a map in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cbam_lightning.attention.gate import at_least_float32, wide_dtype

_Axes = int | tuple[int, ...]


def mean(x: Tensor, axes: _Axes, keepdim: bool = False) -> Tensor:
    """Return the mean."""
    return x.mean(axes, keepdim, dtype=wide_dtype(x))


def maximum(x: Tensor, axes: _Axes, keepdim: bool = False) -> Tensor:
    """Return the maximum; elements that equal it share its gradient."""
    return at_least_float32(x.amax(axes, keepdim))


def norm(x: Tensor, axes: _Axes, keepdim: bool = False) -> Tensor:
    """Return the root of the sum of squares."""
    result: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keepdim, dtype=wide_dtype(x))
    return result


def log_sum_exp(x: Tensor, axes: _Axes, keepdim: bool = False) -> Tensor:
    """Return the logarithm of the sum of the exponentials."""
    return torch.logsumexp(at_least_float32(x), axes, keepdim)
