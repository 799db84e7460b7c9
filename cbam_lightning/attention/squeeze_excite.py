"""Squeeze-and-excitation, SE (Hu, Shen and Sun, CVPR 2018).

Paper: https://arxiv.org/abs/1709.01507. In the form that the CBAM paper compares with: CBAM's channel gate
with the average pool alone. Both linear layers have biases, and initial values are those of CBAM.
"""

from __future__ import annotations

from torch import Tensor

from cbam_lightning.attention.cbam import ChannelAttention
from cbam_lightning.attention.gate import GateName
from cbam_lightning.attention.implementation import Implementation, check_implementation, fused_form, or_fused


class SqueezeExcite(ChannelAttention):
    """Squeeze-and-excitation, a channel gate: x * sigmoid(MLP(mean over positions)).

    Inputs may have one, two or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden layer has C // reduction units, at least one.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.
        implementation: ``reference``, ``fused`` or ``auto``, as in ``CBAM``.
        divisor: The hidden layer has a multiple of so many units, the one nearest to C // reduction. In
            timm's networks it is 8.

    Raises:
        UsageError: A number below 1, or an unknown choice.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        gate: GateName = "sigmoid",
        implementation: Implementation = "auto",
        divisor: int = 1,
    ) -> None:
        super().__init__(channels, reduction, pools=("avg",), gate=gate, divisor=divisor)
        check_implementation(implementation)
        self.implementation = implementation

    @or_fused
    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, *positions) to the same."""
        return super().forward(x)

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        implementation = self.implementation if fused_form(self) else "reference"
        return f"gate={self.gate!r}, implementation={implementation!r}"
