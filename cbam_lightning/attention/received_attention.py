"""Where self-attention looks, in memory that does not grow with the square of the number of positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_WEIGHTS = 2**24  # attention weights at a time: 64 MiB in float32


def received_attention(query: Tensor, key: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return how much attention each position receives: mean over heads and queries, times positions.

    The weights of each query have the sum 1, so the result has the mean 1, and where each query attends to
    all positions alike it is 1 everywhere.

    Args:
        query: (N, heads, L, width), scaled.
        key: (N, heads, L, width).
        sizes: Of the map, whose product is L.

    Returns:
        (N, 1, *sizes).
    """
    images, heads, length, _ = query.shape
    rows = max(1, _MAX_WEIGHTS // max(1, images * heads * length))
    received = key.new_zeros(images, length)
    for part in torch.split(query, rows, dim=2):
        received = received + (part @ key.mT).softmax(-1).sum((1, 2))
    return (received / heads).reshape(images, 1, *sizes)
