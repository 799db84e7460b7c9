"""Coordinate attention (Hou, Zhou and Feng, CVPR 2021).

Paper: https://arxiv.org/abs/2103.02907. Authors' code: https://github.com/houqb/CoordAttention.

For each position axis, a profile: the mean over the other position axes, in two dimensions (N, C, H) and
(N, C, W). With the profiles one after the other, P = H + W positions:

    hidden = hardswish(BatchNorm(1x1 convolution C -> max(8, C // reduction)(profiles)))
    gate of an axis = sigmoid(1x1 convolution of that axis to C(its positions of hidden))
    F' = F * gate of the first axis * gate of the second

As in the authors' code: a reduction of 32, biases in every convolution, and the initial values of their
network: convolutions normal with a standard deviation of sqrt(2 / output channels), biases at 0.

Unlike the authors' code: there are the gate ``identity``, one and three position dimensions, plain means
instead of adaptive pooling, and the convolutions are one-dimensional, since they slide over profiles.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import half_precision, pools, positions
from cbam_lightning.attention.batch_norm import check_values
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName, run_layer
from cbam_lightning.attention.half_precision import recomputed, run_on_map
from cbam_lightning.checks import check_positive

_MIN_HIDDEN = 8  # of the authors' code


class CoordinateAttention(FullGate):
    """Coordinate attention: x * sigmoid(f(means of the rows)) * sigmoid(g(means of the columns)).

    f and g share a hidden layer, which sees the means of rows and columns. In one or three dimensions, there
    is such a gate for each position axis.

    Args:
        channels: C, the number of channels of the input.
        reduction: The hidden profiles have C // reduction channels, at least 8.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W). In
            one dimension the only profile is the map itself; its gate is kept in float32 for the backward
            pass.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid for every axis, a product in (0, 2 ** dims) that
            starts at exactly 1.

    Raises:
        UsageError: A number below 1, or an unknown choice. In training, in one dimension: a single image
            of one position, which BatchNorm cannot normalise.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        dims: positions.Dims = 2,
        gate: GateName = "sigmoid",
    ) -> None:
        positions.check_dims(dims)
        super().__init__(gate, dims)
        check_positive("channels", channels)
        check_positive("reduction", reduction)
        hidden = max(_MIN_HIDDEN, channels // reduction)
        self.squeeze = half_precision.Conv1d(channels, hidden, kernel_size=1)
        self.bn = nn.BatchNorm1d(hidden)
        self.excite = nn.ModuleList(nn.Conv1d(hidden, channels, kernel_size=1) for _ in range(dims))
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or (gate == "identity" and name.startswith("excite")):
                nn.init.zeros_(parameter)
            elif not name.startswith("bn"):
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the gate of each axis, (N, C, *positions) with 1 in place of the other axes."""
        check_values(self, self.bn, x.shape[0] * sum(x.shape[2:]), x)
        profiles = x if self.dims == 1 else recomputed(_profiles, x)
        hidden = F.hardswish(run_layer(self.bn, run_on_map(self.squeeze, profiles)))
        of_axes = torch.split(hidden, list(x.shape[2:]), dim=2)
        gates = []
        for axis, conv, values in zip(positions.axes(x), self.excite, of_axes, strict=True):
            gates.append(_along(axis, self.sigmoid(run_layer(conv, values)), x))
        return tuple(gates)

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Multiply the gates of the axes, to (N, C, *positions)."""
        return functools.reduce(torch.mul, parts)

    def extra_repr(self) -> str:
        """Return the option that the printed layers do not show."""
        return f"gate={self.gate!r}"


def _profiles(x: Tensor) -> Tensor:
    """Return the means over all position axes but one, one axis after the other: (N, C, P)."""
    axes = positions.axes(x)
    return torch.cat([pools.mean(x, tuple(a for a in axes if a != axis)) for axis in axes], dim=2)


def _along(axis: int, values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``values`` of one axis, (N, C, positions of the axis), to broadcast over those of ``x``."""
    return values[(..., *(slice(None) if a == axis else None for a in positions.axes(x)))]
