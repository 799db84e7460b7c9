"""GC, the global context block of GCNet (Cao, Xu, Lin, Wei and Hu, ICCV workshops 2019).

Paper: https://arxiv.org/abs/1904.11492. Authors' code: https://github.com/xvjiarui/GCNet.

    attention = softmax over the positions of a 1x1 convolution C -> 1
    context = sum over the positions of attention * x
    term = W2 ReLU(LayerNorm(W1 context)),    output = x + term  or  x * sigmoid(term)

As in the authors' code:
    * the published form adds; the other fusion is their ``channel_mul``;
    * the convolution starts Kaiming normal (fan-in), W1 and its bias at torch's default, W2 and its bias at
      0: adding starts as the identity, multiplying at a constant 0.5.

Unlike the authors' code:
    * the convolution has no bias, as in the formula of the paper: the softmax would cancel it;
    * the hidden layer has at least three units: LayerNorm turns one into 0 and two into 1 and -1, whatever
      they are;
    * under autocast, the block is computed in float32;
    * there is the gate ``identity``, and feature maps may also have one or three position dimensions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import (
    GateName,
    at_least_float32,
    multiply,
    run_layer,
    wide_dtype,
    without_autocast,
)
from cbam_lightning.attention.half_precision import Conv1d, recomputed, run_on_map
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_above_zero, check_choice, check_positive

Fusion = Literal["add", "scale"]

_LEAST_HIDDEN = 3  # see the top of the file


class GlobalContext(nn.Module):
    """Global context: x + W2 ReLU(LayerNorm(W1 c)), c = sum over positions of softmax(w x) * x.

    W1 and W2 are a bottleneck, C -> C // reduction -> C; its result may be a gate instead of a summand.
    Inputs may have one, two or three position dimensions. Like a ``Gate``, it computes in at least float32,
    also under autocast.

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden layer has C // reduction units, at least three.
        fusion: ``add``, as published, or ``scale``, which multiplies with the gate.
        gate: Of the fusion ``scale``: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly
            1. The fusion ``add`` has no gate, and starts as the identity with either.
        eps: Added to the variance in LayerNorm: 1e-5 in the authors' code, 1e-6 in timm.

    Raises:
        UsageError: A number below 1, an eps that is not positive, or an unknown choice. In ``forward``: an
            input that is not (N, C, *positions).
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        fusion: Fusion = "add",
        gate: GateName = "sigmoid",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        check_choice("fusion", fusion, get_args(Fusion))
        check_choice("gate", gate, get_args(GateName))
        check_above_zero("eps", eps)
        self.fusion, self.gate = fusion, gate
        self.attend = Conv1d(channels, 1, kernel_size=1, bias=False)
        self.mlp = _bottleneck(channels, max(_LEAST_HIDDEN, channels // reduction), eps)
        nn.init.kaiming_normal_(self.attend.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Fuse ``x`` with its context, in the dtype of ``x``: (N, C, *positions) to the same."""
        positions.check_feature_map(self, x)
        with without_autocast(x.device.type):
            if self.fusion == "scale":
                return multiply(x, self._gate(x))
            return (x + self._term(x)).to(x.dtype)

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return what ``x`` is multiplied with, or where the context that is added to it comes from.

        Returns:
            With the fusion ``scale``, the gate as channel (N, C, 1, …). With ``add``, which has no factor,
            the attention that each position receives, (N, 1, *positions), of mean 1.
        """
        positions.check_feature_map(self, x)
        with without_autocast(x.device.type):
            if self.fusion == "scale":
                return {"channel": self._gate(x)}
            attention = self._attention(x.flatten(2))
            return {"attention": (attention * attention.shape[2]).reshape(x[:, :1].shape)}

    def extra_repr(self) -> str:
        """Return the options that the printed layers do not show."""
        return f"fusion={self.fusion!r}, gate={self.gate!r}"

    def _gate(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self._term(x))
        return 2 * gate if self.gate == "identity" else gate

    def _term(self, x: Tensor) -> Tensor:
        """Compute what is added, or the logits of the gate: (N, C, *positions) to (N, C, 1, …)."""
        values = x.flatten(2)
        context = recomputed(_weighted_sum, values, self._attention(values))
        return positions.broadcast(run_layer(self.mlp, context), x)

    def _attention(self, values: Tensor) -> Tensor:
        """Weigh the L positions, with a sum of 1: (N, C, L) to (N, 1, L)."""
        return torch.softmax(run_on_map(self.attend, values), dim=2, dtype=wide_dtype(values))


def _weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum (N, C, L) over the positions, with weights (N, 1, L), to (N, C)."""
    return torch.matmul(at_least_float32(values), weights.transpose(1, 2))[..., 0]


def _bottleneck(channels: int, hidden: int, eps: float) -> nn.Sequential:
    fc1, fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
    nn.init.zeros_(fc2.weight)
    nn.init.zeros_(fc2.bias)
    return nn.Sequential(OrderedDict(fc1=fc1, norm=nn.LayerNorm(hidden, eps), relu=nn.ReLU(), fc2=fc2))
