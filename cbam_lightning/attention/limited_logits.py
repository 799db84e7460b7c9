"""Attention logits that their dtype still resolves.

A fused kernel computes the logits twice: in the backward pass again, in another order, and subtracts the
logarithm of the sum that the forward pass has kept. Where logits are so large that the two roundings differ
by tens, the exponential of the difference overflows, and with it every gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def limited(query: Tensor, key: Tensor) -> Tensor:
    """Return the queries, shorter where a logit could be beyond 1 / (8 eps), which is 2^20 in float32.

    A logit is at most the sum of the sizes of a query's elements times the size of the largest element of
    the keys (Hoelder). Queries within the limit come back bit for bit.

    Args:
        query: (N, heads, L, width), scaled.
        key: (N, heads, L, width).
    """
    with torch.no_grad():
        largest = query.abs().sum(-1, keepdim=True) * key.abs().amax((-2, -1), keepdim=True)
        factor = (1 / (8 * torch.finfo(query.dtype).eps) / largest).clamp(max=1)
    return query * factor
