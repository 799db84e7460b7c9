"""Triplet attention, "Rotate to Attend" (Misra, Nalamada, Arasanipalai and Hou, WACV 2021).

Paper: https://arxiv.org/abs/2010.03045. Authors' code: https://github.com/landskape-ai/triplet-attention.

Each branch pools over one axis of (C, H, W), and so lets the two others interact:

    gate of an axis = sigmoid(BatchNorm(convolution 7x7([MaxPool, AvgPool] over that axis)))
    F' = mean over the axes of F * gate of the axis

As in the authors' code: the maximum comes before the mean; the convolutions have no bias and pad with zeros,
so a map may be smaller than their kernel; the axes that a kernel slides over are in the order of
x.transpose(1, axis): (H, W), (C, W) and (H, C). Initial values are those of their ResNet: convolutions
Kaiming normal (fan-out); the weight of the BatchNorm 0 in the branch over the channels, whose gate starts at
0.5 as in CBAM, and 1 in the others.

Unlike the authors' code:
    * the mean is over the gates, which is multiplied once: the same number;
    * elements that equal the maximum share its gradient;
    * there are the gate ``identity``, and d + 1 branches for one and three position dimensions.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from cbam_lightning.attention import pools, positions
from cbam_lightning.attention.batch_norm import check_values
from cbam_lightning.attention.full_gate import FullGate
from cbam_lightning.attention.gate import GateName, run_layer
from cbam_lightning.attention.half_precision import recomputed
from cbam_lightning.checks import check_odd, check_positive
from cbam_lightning.errors import UsageError


class TripletAttention(FullGate):
    """Triplet attention: x * mean over the axes of sigmoid(BatchNorm(conv 7x7([max, mean] over the axis))).

    The axes are those of (C, *positions).

    Args:
        channels: C, the number of channels of the input. No layer depends on it.
        kernel_size: Side of the kernels, in channels and positions, odd.
        spatial: Whether the branch that pools over the channels is there (the authors' ``no_spatial`` is the
            opposite). Without it the mean is over the other branches.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W). The
            kernels have as many.
        gate: ``sigmoid``, or ``identity`` for 2 * sigmoid, which starts at exactly 1.

    Raises:
        UsageError: A number below 1, an even kernel, or an unknown choice. In training: a branch with a
            single value, which its BatchNorm cannot normalise.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        spatial: bool = True,
        dims: positions.Dims = 2,
        gate: GateName = "sigmoid",
    ) -> None:
        positions.check_dims(dims)
        super().__init__(gate, dims)
        check_positive("channels", channels)
        check_odd("kernel_size", kernel_size)
        if not isinstance(spatial, bool):
            raise UsageError(f"spatial is {spatial!r}; give true or false.")
        self.axes = tuple(range(1 if spatial else 2, dims + 2))  # that the branches pool over
        self.branches = nn.ModuleList(
            _Branch(kernel_size, dims, starts_constant=axis == 1 or gate == "identity") for axis in self.axes
        )

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the gate of each branch, (N, C, *positions) with 1 in place of its axis."""
        shapes = [_pooled_shape(x, axis) for axis in self.axes]
        pooled = torch.split(recomputed(self._pool, x), [math.prod(shape[1:]) for shape in shapes], dim=1)
        gates = []
        for axis, branch, shape, values in zip(self.axes, self.branches, shapes, pooled, strict=True):
            check_values(self, branch.get_submodule("bn"), shape[0] * math.prod(shape[2:]), x)
            gates.append(self.sigmoid(branch(values.reshape(shape))).transpose(1, axis))
        return tuple(gates)

    def combine(self, x: Tensor, *parts: Tensor) -> Tensor:
        """Return the mean of the branches' gates, (N, C, *positions)."""
        return functools.reduce(torch.add, parts) / len(parts)

    def extra_repr(self) -> str:
        """Return the option that the printed layers do not show."""
        return f"gate={self.gate!r}"

    def _pool(self, x: Tensor) -> Tensor:
        """Return maximum and mean over each axis, with C in its place, one after the other: (N, values)."""
        pooled = []
        for axis in self.axes:
            for pool in (pools.maximum, pools.mean):
                pooled.append(pool(x, axis, keepdim=True).transpose(1, axis).flatten(1))
        return torch.cat(pooled, dim=1)


class _Branch(nn.Module):
    """Convolution and BatchNorm from maximum and mean to logits: (N, 2, *axes) to (N, 1, *axes)."""

    def __init__(self, kernel_size: int, dims: int, starts_constant: bool) -> None:
        super().__init__()
        conv = positions.CONVOLUTIONS[dims]
        self.conv = conv(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = positions.BATCH_NORMS[dims](1, eps=1e-5, momentum=0.01)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.constant_(self.bn.weight, 0.0 if starts_constant else 1.0)

    def forward(self, pooled: Tensor) -> Tensor:
        return run_layer(self.bn, run_layer(self.conv, pooled))


def _pooled_shape(x: Tensor, axis: int) -> list[int]:
    """Return the shape (N, 2, *axes) of maximum and mean over ``axis``, with C in its place."""
    shape = list(x.shape)
    shape[axis], shape[1] = shape[1], 2
    return shape
