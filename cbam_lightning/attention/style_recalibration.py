"""SRM, the Style-based Recalibration Module (Lee, Kim and Nam, ICCV 2019).

Paper: https://arxiv.org/abs/1903.10829.
Authors' code: https://github.com/hyunjaelee410/style-based-recalibration-module.

As in the authors' code:
    * the style of a channel is its mean and its standard deviation over the positions, with n - 1 in the
      denominator, where the paper has n;
    * the weights of mean and standard deviation, two a channel and without bias, start at 0, so the gate
      starts at a constant 0.5.

Unlike the authors' code:
    * the standard deviation of a single position is 0, where theirs is not a number;
    * the optimiser decides on weight decay, where they exempt all parameters of the module;
    * under autocast, the gate is computed and multiplied in float32;
    * there is the gate ``identity``, and feature maps may also have one or three position dimensions. It
      starts as CBAM's spatial gate does, from a BatchNorm weight of 0 and random weights before it: from
      weights of 0, the first step of training would move the logits from 0 to a variance of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.batch_norm import check_values
from cbam_lightning.attention.gate import Gate, GateName, at_least_float32, run_layer
from cbam_lightning.attention.half_precision import recomputed
from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError


class SRM(Gate):
    """SRM, a channel gate: x * sigmoid(BatchNorm(w1 * mean + w2 * standard deviation)).

    Each channel has its own w1 and w2; mean and standard deviation are those over the positions. Inputs may
    have one, two or three position dimensions.

    Args:
        channels: C, the number of channels of the input.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.

    Raises:
        UsageError: A number of channels below 1, or an unknown gate. In ``forward``: another number of
            channels; in training, a batch of one, which the BatchNorm cannot normalise; with SyncBatchNorm,
            the batch over all processes counts.
    """

    def __init__(self, channels: int, gate: GateName = "sigmoid") -> None:
        super().__init__(gate)
        check_positive("channels", channels)
        self.cfc = nn.Parameter(torch.zeros(channels, 2))
        self.bn = nn.BatchNorm1d(channels)
        if gate == "identity":
            nn.init.kaiming_normal_(self.cfc, nonlinearity="linear")
            nn.init.zeros_(self.bn.weight)

    def compute_gate(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, C, *positions) to (N, C, 1, …)."""
        if x.shape[1] != len(self.cfc):  # a single channel would be broadcast
            raise UsageError(f"SRM was made for {len(self.cfc)} channels, but was given {tuple(x.shape)}.")
        check_values(self, self.bn, x.shape[0], x)
        style = recomputed(_mean_and_deviation, x)  # (N, C, 2)
        logits = run_layer(self.bn, (style * self.cfc).sum(2))
        return self.sigmoid(positions.broadcast(logits, x))

    def extra_repr(self) -> str:
        """Return the options that the printed layer does not show."""
        return f"{len(self.cfc)}, gate={self.gate!r}"


def _mean_and_deviation(x: Tensor) -> Tensor:
    """Pool (N, C, *positions) to (N, C, 2)."""
    values = at_least_float32(x).flatten(2)
    deviation, mean = torch.std_mean(values, 2, correction=min(1, values.shape[2] - 1))
    return torch.stack([mean, deviation], dim=2)
