"""The MLP of a channel gate and its sigmoid, with their gradients, on values small beside the feature map.

C is the number of channels, R of hidden units, K of pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Excitation(NamedTuple):
    """The MLP C -> R -> C of a channel gate: the weights and biases of its two linear layers."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


def as_constant(parameters: Sequence[Any], dtype: torch.dtype) -> Excitation | None:
    """Return the MLP of these four parameters, outside of the graph, in ``dtype``; None for four ``None``."""
    if parameters[0] is None:
        return None
    return Excitation(*(parameter.detach().to(dtype) for parameter in parameters))


def excitation(pooled: Tensor, mlp: Excitation, factor: float) -> tuple[Tensor, Tensor]:
    """Return the channel gate (N, C) and the hidden units (K, N, R) for the pools (K, N, C)."""
    hidden = torch.relu(pooled @ mlp.weight1.T + mlp.bias1)
    # The last layer is linear: one product for the sum of the pools.
    logits = hidden.sum(0) @ mlp.weight2.T + len(pooled) * mlp.bias2
    return factor * torch.sigmoid(logits), hidden


def excitation_gradient(
    d_gate: Tensor, gate: Tensor, pooled: Tensor, hidden: Tensor, mlp: Excitation, factor: float
) -> tuple[Excitation, Tensor]:
    """Differentiate ``excitation``: by the MLP, and by the pools, (K, N, C)."""
    d_logits = logit_gradient(d_gate, gate, factor)
    d_hidden = (d_logits @ mlp.weight2) * (hidden > 0)
    d_mlp = Excitation(
        d_hidden.flatten(0, 1).T @ pooled.flatten(0, 1),
        d_hidden.sum((0, 1)),
        d_logits.T @ hidden.sum(0),
        len(pooled) * d_logits.sum(0),
    )
    return d_mlp, d_hidden @ mlp.weight1


def logit_gradient(d_gate: Tensor, gate: Tensor, factor: float) -> Tensor:
    """Differentiate ``factor * sigmoid(logits)``, given the gate and its gradient."""
    return d_gate * gate * (1 - gate / factor)
