"""Squeeze-and-excitation, SE (Hu, Shen and Sun, CVPR 2018): https://arxiv.org/abs/1709.01507.

As the CBAM paper compares it: the channel half of CBAM with the average pool alone, so both linear layers
have biases and start as CBAM's do.
"""

from __future__ import annotations

from torch import Tensor

from cbam_lightning.attention import positions
from cbam_lightning.attention.cbam import ChannelAttention
from cbam_lightning.attention.fused.attend import attend
from cbam_lightning.attention.gate import GateName
from cbam_lightning.attention.implementation import Implementation, check_implementation, runs_fused


class SqueezeExcite(ChannelAttention):
    """Which channels matter: sigmoid of MLP(mean over positions).

    Positions may have one, two or three dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: How many times fewer units than C the hidden layer has, at least one unit.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid that starts at exactly 1.
        implementation: ``reference``, ``fused`` or ``auto``, as in ``CBAM``.

    Raises:
        UsageError: A number below 1, or an unknown choice.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        gate: GateName = "sigmoid",
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(channels, reduction, pools=("avg",), gate=gate)
        check_implementation(implementation)
        self.implementation = implementation

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, in the dtype of ``x``: (N, C, *positions) to the same."""
        if not (self.has_fused_form and runs_fused(self, self.implementation, x)):
            return super().forward(x)
        positions.check_feature_map(self, x)
        return attend(x, "channel", self.excitation, maximum=False, factor=self.factor)

    def extra_repr(self) -> str:
        """Name the options that the printed layers do not show."""
        return f"gate={self.gate!r}, implementation={self.implementation!r}"
