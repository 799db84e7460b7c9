"""scSE, concurrent spatial and channel squeeze-and-excitation (Roy, Navab and Wachinger, MICCAI 2018).

Papers: https://arxiv.org/abs/1803.02579, https://arxiv.org/abs/1808.08127 (TMI 2019). Authors' code:
https://github.com/ai-med/squeeze_and_excitation.

With c the gate of squeeze-and-excitation, (N, C, 1, …), and s = sigmoid(1x1 convolution of x), (N, 1, …):

    max: maximum of x * c and x * s, element by element,    add: x * c + x * s

As in the authors' code: ``max``, the only combination there; the first paper has ``add``. A reduction of 2,
and biases in every layer. The maximum is that of the gated maps: where x is negative, it takes the smaller
gate.

Unlike the papers: the product of the second one, which squares the map, and its concatenation, which doubles
the channels, are no gates and not here. Unlike the authors' code: the hidden layer has at least one unit,
biases start at 0, and maps may also have one position dimension.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention.cbam import ChannelAttention
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName
from cbam_lightning.attention.half_precision import Conv1d, run_on_map
from cbam_lightning.checks import check_choice

Combination = Literal["max", "add"]


class SCSE(FullGate):
    """Concurrent spatial and channel SE: max(x * sigmoid(MLP(mean over positions)), x * sigmoid(w x + b)).

    The channel gate is that of ``SqueezeExcite``, the spatial gate a 1x1 convolution C -> 1 with a sigmoid.
    Inputs may have one, two or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden layer of the channel gate has C // reduction units, at least one.
        combination: ``max``, the maximum of the two gated maps, or ``add``, their sum.
        gate: ``sigmoid`` as published, in (0, 1), with ``add`` in (0, 2), or ``identity``, in (0, 2), which
            starts at exactly 1: 2 * sigmoid in both gates, and with ``add`` the mean of the two.

    Raises:
        UsageError: A number below 1, or an unknown choice.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 2,
        combination: Combination = "max",
        gate: GateName = "sigmoid",
    ) -> None:
        super().__init__(gate)
        check_choice("combination", combination, get_args(Combination))
        self.combination = combination
        self.channel = ChannelAttention(channels, reduction, pools=("avg",), gate=gate)
        self.spatial = Conv1d(channels, 1, kernel_size=1)
        for name, parameter in self.spatial.named_parameters():
            if name == "bias" or gate == "identity":
                nn.init.zeros_(parameter)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the channel gate, (N, C, 1, …), and the spatial gate, (N, 1, *positions)."""
        logits = run_on_map(self.spatial, x.flatten(2)).view(x.shape[0], 1, *x.shape[2:])
        return self.channel.compute_gate(x), self.sigmoid(logits)

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Combine the gates to the factor of each element of ``x``, (N, C, *positions)."""
        channel, spatial = parts
        if self.combination == "add":
            return (channel + spatial) / self.factor
        high, low = torch.maximum(channel, spatial), torch.minimum(channel, spatial)
        # At 0 both gated maps are equal, and share the gradient.
        return torch.where(x > 0, high, torch.where(x < 0, low, (channel + spatial) / 2))

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"combination={self.combination!r}, gate={self.gate!r}"
