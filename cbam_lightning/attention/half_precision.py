"""Feature maps in half precision: computed with in float32, kept for the backward pass as they came.

Autograd saves what an operation was given. If that is a float32 copy of a map in half precision, three times
the memory of the map stays occupied. Here, the operations on a map are one function of autograd, which saves
the map itself and computes again in its backward pass. What such a function adds to the gradient is summed in
float32 and rounded once: in float16 a sum over channels or positions can exceed 65504.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from cbam_lightning.attention.gate import (
    at_least_float32,
    has_half_weights,
    run_in_float32,
    run_layer,
    without_autocast,
)
from cbam_lightning.attention.implementation import is_transformed


def recomputed(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """Return ``function(x, *others)``, and save for the backward pass no more than its arguments.

    Inputs of at least float32 take the plain operations. So do graphs, whose compiler decides by itself what
    to save, and transforms of ``torch.func``.

    Args:
        function: Computes the same result, at least float32, from ``x`` in half precision and in float32: the
            first without, the second with gradients. It is called again in the backward pass, without
            autocast.
        x: A feature map.
        others: Tensors, such as weights.
    """
    if not torch.is_grad_enabled():
        return function(x, *others)
    wide = at_least_float32(x)
    if wide is x or _is_traced() or is_transformed():
        return function(wide, *others)
    output: Tensor = _Recomputed.apply(function, x, *others)
    return output


def _is_traced() -> bool:
    traced: bool = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traced


class _Recomputed(Function):
    """Map x and other tensors to a function of them."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, *others)
        return function(x, *others)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad(), without_autocast(grad.device.type):
            # Views: the gradient of a saved tensor itself would run the hooks on that tensor once more.
            x, *others = inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
            output = ctx.function(at_least_float32(x), *others)
        wanted = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=torch.is_grad_enabled()))
        return None, *(next(found) if is_needed else None for is_needed in needed)


class _Widening(nn.modules.conv._ConvNd):
    """A convolution in the precision of its weights, also of maps in half precision."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in torch)
        """Convolve (N, C, *positions)."""
        if input.dtype == self.weight.dtype:
            output: Tensor = self._convolve(input, self.weight, self.bias)
            return output
        return recomputed(self._convolve, input, self.weight, *([] if self.bias is None else [self.bias]))

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        convolve: Any = self._conv_forward  # of Conv1d, Conv2d or Conv3d
        output: Tensor = convolve(x.to(weight.dtype), weight, bias)
        return output


class Conv1d(_Widening, nn.Conv1d):
    """``nn.Conv1d`` that takes maps in half precision, and keeps no copy of them."""


class Conv2d(_Widening, nn.Conv2d):
    """``nn.Conv2d`` that takes maps in half precision, and keeps no copy of them."""


class Conv3d(_Widening, nn.Conv3d):
    """``nn.Conv3d`` that takes maps in half precision, and keeps no copy of them."""


# By the number of position dimensions
CONVOLUTIONS: dict[int, type[Conv1d | Conv2d | Conv3d]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


def run_on_map(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply ``layer`` in the dtype of its weights, at least float32, to a feature map.

    Args:
        layer: If it is one of ``CONVOLUTIONS``, or begins with one, nothing is kept but the map.
        x: The feature map, in any precision.
    """
    first = layer[0] if isinstance(layer, nn.Sequential) else layer
    if isinstance(first, _Widening):
        return at_least_float32(run_in_float32(layer, x) if has_half_weights(layer) else layer(x))
    return run_layer(layer, at_least_float32(x))
