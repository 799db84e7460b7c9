"""ECA, Efficient Channel Attention (Wang, Wu, Zhu, Li, Zuo and Hu, CVPR 2020).

Paper: https://arxiv.org/abs/1910.03151. Authors' code: https://github.com/BangguWu/ECANet.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from cbam_lightning.attention import pools, positions
from cbam_lightning.attention.gate import Gate, GateName, run_layer
from cbam_lightning.checks import check_above_zero, check_odd, check_positive, is_finite
from cbam_lightning.errors import UsageError


class ECA(Gate):
    """ECA, a channel gate: x * sigmoid(convolution along the channels of the means over positions).

    A kernel of k weights without bias slides over the C means, padded with zeros, so the gate of a channel
    depends on its k neighbours. Inputs may have one, two or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        kernel_size: k, the number of neighbouring channels, odd. Default: ``adaptive_kernel_size``.
        gamma: Divisor in the formula for k; unused if ``kernel_size`` is given.
        beta: Summand in the formula for k; unused if ``kernel_size`` is given.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.

    Raises:
        UsageError: A number below 1, an even kernel, a gamma that is not a positive number, a beta that is
            not a number, or an unknown gate.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | None = None,
        gamma: float = 2,
        beta: float = 1,
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__(gate)
        check_positive("channels", channels)
        if kernel_size is None:
            kernel_size = adaptive_kernel_size(channels, gamma, beta)
        check_odd("kernel_size", kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        if gate == "identity":
            nn.init.zeros_(self.conv.weight)

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to (N, C, 1, …)."""
        means = pools.mean(x, positions.axes(x))
        logits = run_layer(self.conv, means[:, None])[:, 0]  # the channels are the convolution's positions
        return self.sigmoid(positions.broadcast(logits, x))

    def extra_repr(self) -> str:
        """Return the option that the printed layer does not show."""
        return f"gate={self.gate!r}"


def adaptive_kernel_size(channels: int, gamma: float = 2, beta: float = 1) -> int:
    """Return |log2(C) / gamma + beta / gamma|, truncated, plus 1 if that is even.

    The paper says "the nearest odd number" (section 3.2); the rounding is that of its printed code.

    Args:
        channels: C, the number of channels.
        gamma: The divisor, positive.
        beta: The summand.

    Raises:
        UsageError: A gamma that is not a positive finite number, or a beta that is not a finite number.
    """
    check_above_zero("gamma", gamma)
    if not is_finite(beta):
        raise UsageError(f"beta is {beta!r}; give a number.")
    truncated = int(abs((math.log2(channels) + beta) / gamma))
    return truncated if truncated % 2 else truncated + 1
