"""Effective squeeze-and-excitation, eSE (Lee and Park, CenterMask, CVPR 2020).

Paper: https://arxiv.org/abs/1911.06667. Authors' code: https://github.com/youngwanLEE/CenterMask.

SE with one linear layer of full width, so that no information is lost in a narrower one.

As in the authors' code:
    * the gate is the hard sigmoid, relu6(z + 3) / 6, where the paper's formula has the sigmoid;
    * the weight starts Kaiming normal (fan-in), as all weights of their networks, and the bias at torch's
      default.

Unlike the authors' code:
    * under autocast, the gate is computed and multiplied in float32;
    * there is the gate ``identity``, and feature maps may also have one or three position dimensions.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import pools, positions
from cbam_lightning.attention.gate import Gate, run_layer
from cbam_lightning.checks import check_positive

HardGateName = Literal["hard_sigmoid", "sigmoid", "identity"]


class EffectiveSE(Gate):
    """Effective SE, a channel gate: x * hard sigmoid(linear layer C -> C of the means over positions).

    The hard sigmoid has no gradient where it is 0 or 1, for logits beyond -3 and 3. Inputs may have one, two
    or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        gate: ``hard_sigmoid``, in [0, 1]; ``sigmoid``, in (0, 1); or ``identity`` for 2 * hard sigmoid, in
            [0, 2], which starts at exactly 1.

    Raises:
        UsageError: A number of channels below 1, or an unknown gate.
    """

    gates: ClassVar[tuple[str, ...]] = get_args(HardGateName)

    def __init__(self, channels: int, gate: HardGateName = "hard_sigmoid") -> None:
        super().__init__(gate)
        check_positive("channels", channels)
        self.fc = nn.Linear(channels, channels)
        if gate == "identity":
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)
        else:
            nn.init.kaiming_normal_(self.fc.weight)

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to (N, C, 1, …)."""
        logits = run_layer(self.fc, pools.mean(x, positions.axes(x)))
        return self.sigmoid(positions.broadcast(logits, x))

    def sigmoid(self, logits: Tensor) -> Tensor:
        """Turn logits into gate values: the hard sigmoid, times 2 for the gate ``identity``."""
        if self.gate == "sigmoid":
            return super().sigmoid(logits)
        return F.relu6(logits + 3) / (6 / self.factor)

    def extra_repr(self) -> str:
        """Return the option that the printed layer does not show."""
        return f"gate={self.gate!r}"
