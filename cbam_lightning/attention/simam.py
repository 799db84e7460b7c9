"""SimAM, a simple, parameter-free attention module (Yang, Zhang, Li and Xie, ICML 2021).

Paper: https://proceedings.mlr.press/v139/yang21o.html. Authors' code: https://github.com/ZjjConan/SimAM.

For the M positions t of a channel, with their mean mu and their variance sigma² = sum of (t - mu)² / (M - 1),
the gate is the sigmoid of the inverse of the minimal energy (equation 5 of the paper):

    sigmoid((t - mu)² / (4 * (sigma² + lambda)) + 0.5)

As in the authors' code: the 0.5, which keeps every gate at sigmoid(0.5) = 0.62 or more, and the
variance's divisor M - 1. Lambda is 1e-4, as in their experiments on CIFAR; on ImageNet they take 0.1.

Unlike the authors' code:
    * a map of one position has the gate sigmoid(0.5), where theirs is not a number: t - mu is 0 there,
      whatever the variance;
    * sums and gates are computed in at least float32, and maps may also have one or three position
      dimensions.
"""

from __future__ import annotations

import math

from torch import Tensor

from cbam_lightning.attention import pools, positions
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName
from cbam_lightning.checks import check_above_zero, check_positive
from cbam_lightning.errors import UsageError


class SimAM(FullGate):
    """SimAM, a gate for each element: x * sigmoid((x - mean)^2 / (4 * (variance + lambda)) + 0.5).

    Mean and variance are those of the element's channel: the further from the mean, the larger the gate. The
    module has no parameters, so it can neither start as the identity nor learn. Inputs may have one, two or
    three position dimensions.

    Args:
        channels: C, the number of channels of the input; the gates of the channels are independent.
        e_lambda: Lambda, added to the variance of a channel, positive.
        gate: ``sigmoid``, the only one.

    Raises:
        UsageError: A number of channels below 1, a lambda that is not a positive number, or another gate.
    """

    gates = ("sigmoid",)

    def __init__(self, channels: int, e_lambda: float = 1e-4, gate: GateName = "sigmoid") -> None:
        if gate == "identity":
            raise UsageError(
                "SimAM has no parameters, so it can neither start as the identity nor learn. Use "
                "gate='sigmoid', the published gate, which changes what a network computes."
            )
        super().__init__(gate)
        check_positive("channels", channels)
        check_above_zero("e_lambda", e_lambda)
        self.e_lambda = e_lambda

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return nothing: the gate is computed from the map alone."""
        return ()

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to the same."""
        axes = positions.axes(x)
        squares = (x - pools.mean(x, axes, keepdim=True)).square()
        degrees = max(math.prod(x.shape[2:]) - 1, 1)
        variance = squares.sum(axes, keepdim=True) / degrees
        return self.sigmoid(squares / (4 * (variance + self.e_lambda)) + 0.5)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"e_lambda={self.e_lambda}, gate={self.gate!r}"
