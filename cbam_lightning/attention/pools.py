"""Pools of a feature map over its positions or channels, with sums in at least float32.

Each takes a map in any precision. All but ``mean_of_windows`` take the axes to pool over, and whether they
are kept with size 1. ``mean`` and ``maximum`` make no wider copy of a map in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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


def mean_of_windows(x: Tensor, extent: int) -> Tensor:
    """Return means over windows of 2 * extent - 1 positions a side, without what is beyond the map.

    Args:
        x: (N, C, *positions).
        extent: Distance of the centres of two windows in positions; the first is at the map's first position.

    Returns:
        (N, C, *windows), of ceil(positions / extent) windows in each dimension.
    """
    x = at_least_float32(x)
    if x.ndim == 3:
        return _windows(x[:, :, None], (1, extent))[:, :, 0]
    if x.ndim == 4:
        return _windows(x, (extent, extent))
    # Not avg_pool3d, which has no deterministic backward pass on CUDA: planes first, then their depth.
    planes = _windows(x.flatten(1, 2), (extent, extent))  # (N, C * D, H', W')
    *_, height, width = planes.shape
    columns = _windows(planes.reshape(*x.shape[:3], height * width), (extent, 1))
    return columns.reshape(*columns.shape[:3], height, width)


def _windows(x: Tensor, extents: tuple[int, int]) -> Tensor:
    height, width = extents
    kernel, padding = (2 * height - 1, 2 * width - 1), (height - 1, width - 1)
    return F.avg_pool2d(x, kernel, stride=extents, padding=padding, count_include_pad=False)
