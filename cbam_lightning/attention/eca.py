"""ECA, Efficient Channel Attention (Wang, Wu, Zhu, Li, Zuo and Hu, CVPR 2020).

Paper: https://arxiv.org/abs/1910.03151. Authors' code: https://github.com/BangguWu/ECANet.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import Gate, GateName, run_layer
from cbam_lightning.checks import check_odd, check_positive
from cbam_lightning.errors import UsageError


class ECA(Gate):
    """Which channels matter: sigmoid of a convolution along the channels of mean over positions.

    One kernel of k weights without bias slides over the C means, padded with zeros: every channel's gate
    depends on its k neighbours. Positions may have one, two or three dimensions.

    Args:
        channels: C, the number of channels of the input.
        kernel_size: k, the number of neighbouring channels, odd; left out, ``adaptive_kernel_size``.
        gamma: The divisor in the formula of k, which a given ``kernel_size`` replaces.
        beta: The summand in the formula of k, which a given ``kernel_size`` replaces.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid that starts at exactly 1.

    Raises:
        UsageError: A number below 1, an even kernel, a gamma or beta that is no number or, gamma, not
            positive, or an unknown gate.
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

    def logits(self, x: Tensor) -> Tensor:
        """Convolve the means of the channels: (N, C, *positions) to (N, C, 1, …)."""
        means = x.mean(positions.axes(x))[:, None]  # (N, 1, C): the channels are the convolution's positions
        return positions.broadcast(run_layer(self.conv, means)[:, 0], x)

    def extra_repr(self) -> str:
        """Name the option that the printed layer does not show."""
        return f"gate={self.gate!r}"


def adaptive_kernel_size(channels: int, gamma: float = 2, beta: float = 1) -> int:
    """Return |log2(C) / gamma + beta / gamma|, cut to a whole number, plus 1 if that is even.

    The paper writes "the nearest odd number" (section 3.2); the rounding is that of the code it prints.

    Args:
        channels: C, the number of channels.
        gamma: The divisor, positive.
        beta: The summand.

    Raises:
        UsageError: A gamma or beta that is no finite number, or a gamma that is not positive.
    """
    for option, value in {"gamma": gamma, "beta": beta}.items():
        if (
            not isinstance(value, (int, float))
            or not math.isfinite(value)
            or (option == "gamma" and value <= 0)
        ):
            message = f"{option} is {value!r}; give a {'positive ' * (option == 'gamma')}number."
            raise UsageError(message)
    cut = int(abs((math.log2(channels) + beta) / gamma))
    return cut if cut % 2 else cut + 1
