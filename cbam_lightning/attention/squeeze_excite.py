"""Squeeze-and-excitation, SE (Hu, Shen and Sun, CVPR 2018): https://arxiv.org/abs/1709.01507.

As the CBAM paper compares it: the channel half of CBAM with the average pool alone, so both linear layers
have biases and start as CBAM's do.
"""

from __future__ import annotations

from cbam_lightning.attention.cbam import ChannelAttention
from cbam_lightning.attention.gate import GateName


class SqueezeExcite(ChannelAttention):
    """Which channels matter: sigmoid of MLP(mean over positions).

    Positions may have one, two or three dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: How many times fewer units than C the hidden layer has, at least one unit.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid that starts at exactly 1.

    Raises:
        UsageError: A number below 1, or an unknown gate.
    """

    def __init__(self, channels: int, reduction: int = 16, gate: GateName = "sigmoid") -> None:
        super().__init__(channels, reduction, pools=("avg",), gate=gate)
