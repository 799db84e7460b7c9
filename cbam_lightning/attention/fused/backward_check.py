"""What the backward pass of fused attention refuses."""

from __future__ import annotations

import torch
from torch import Tensor

from cbam_lightning.attention.implementation import is_transformed
from cbam_lightning.errors import UsageError


def check_backward(grad: Tensor) -> None:
    """Raise a ``UsageError`` in a backward pass that is itself differentiated or vectorised.

    Args:
        grad: The incoming gradient. ``torch.autograd.grad`` with ``is_grads_batched`` makes it a batch of
            gradients that looks like one.
    """
    problem = None
    if torch.is_grad_enabled():
        problem = "has no second derivative, but its backward pass was called with create_graph=True"
    elif is_transformed() or torch._C._functorch.is_legacy_batchedtensor(grad):
        problem = "takes one gradient at a time, but its backward pass was vectorised or transformed"
    if problem:
        raise UsageError(
            f"fused attention {problem}. Give the attention the option implementation='reference'."
        )
