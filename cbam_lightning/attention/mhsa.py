"""Multi-head self-attention with relative positions, as in BoTNet (Srinivas and others, CVPR 2021).

Paper, "Bottleneck Transformers for Visual Recognition": https://arxiv.org/abs/2101.11605. Authors' code:
https://gist.github.com/aravindsrinivas/56359b79f0ce4449bcb04ab4b56a57a2.

As in the authors' code:
    * queries, keys and values are 1x1 convolutions to C channels without biases, and no convolution follows;
    * the logit of a query q at x and a key k at y is q (k + r_height + r_width) / sqrt(C / heads), where each
      r depends on the offset y - x along its axis, and all heads share it.

Unlike the authors' code:
    * the result is scaled by gamma, which starts at 0, and added to the input, as in SAGAN: the module can be
      inserted anywhere. BoTNet puts the attention in the place of the 3x3 convolutions of a ResNet's last
      stage, and BatchNorm and ReLU follow it;
    * projections start normal with a standard deviation of 1 / sqrt(C), the size that timm has: the authors'
      0.01 needs that BatchNorm;
    * r starts normal with a standard deviation of 1 / sqrt(C / heads), as in timm: copies of the authors'
      code pass this number as the mean, and say so;
    * maps may have any size up to ``max_size``, and one or three position dimensions. The tables of r are as
      long as the largest map needs, where those of BoTNet have the size of its only one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbam_lightning.attention import positions
from cbam_lightning.attention.gate import at_least_float32, without_autocast
from cbam_lightning.attention.half_precision import recomputed
from cbam_lightning.attention.limited_logits import limited
from cbam_lightning.attention.received_attention import received_attention
from cbam_lightning.attention.scripting import refuse_scripting
from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError

_AXES = ("depth", "height", "width")  # the last ``dims`` of them
_MULTIPLE = 8  # of all widths: torch's fused kernel for CUDA takes aligned rows alone


class MHSA(nn.Module):
    """Self-attention between positions in several heads: x + gamma * softmax(q (k + r) / sqrt(C / heads)) v.

    Time grows with the square of the number of positions, times C / heads + the sum of the map's sides.
    Memory grows with their number, times the same, where torch has a fused kernel. What ``SAGAN`` says of
    derivatives, of determinism on CUDA and of compiling under autocast holds here, too.

    Like a ``Gate``, it computes in at least float32, also under autocast. For maps in half precision it keeps
    nothing but the map for the backward pass, which computes the attention again.

    Args:
        channels: C, the number of channels of the input.
        heads: Number of heads, a divisor of C.
        max_size: The largest map, in positions along each axis. Each axis has 2 * max_size - 1 relative
            positions.
        dims: Number of position dimensions: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W).

    Raises:
        UsageError: A number below 1, or heads that do not divide the channels. In ``forward`` and
            ``gate_maps``: an input with another number of dimensions, or larger than ``max_size``.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(self, channels: int, heads: int = 4, max_size: int = 128, dims: positions.Dims = 2) -> None:
        positions.check_dims(dims)
        super().__init__()
        for option, value in {"channels": channels, "heads": heads, "max_size": max_size}.items():
            check_positive(option, value)
        if channels % heads:
            raise UsageError(
                f"heads is {heads}, which does not divide {channels} channels; give a divisor, for example "
                f"{math.gcd(heads, channels)}."
            )
        self.heads, self.max_size, self.dims, self.width = heads, max_size, dims, channels // heads
        # Only its weight is used: what is recomputed for the backward pass is a function of tensors.
        self.qkv = nn.Conv1d(channels, 3 * channels, kernel_size=1, bias=False)
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        for axis in _AXES[-dims:]:
            table = nn.Parameter(torch.empty(2 * max_size - 1, self.width))  # row max_size - 1: offset 0
            self.register_parameter(f"relative_{axis}", table)
            nn.init.normal_(table, std=self.width**-0.5)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus scaled self-attention, in the dtype of ``x``: (N, C, *positions) to the same."""
        self._check(x)
        with without_autocast(x.device.type):
            return recomputed(self._add_attention, x, self.gamma, *self._weights()).to(x.dtype)

    def gate_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return what multiplies nothing, but shows where it looks: ``received_attention``.

        Returns:
            ``attention``, (N, 1, *positions), with mean 1.
        """
        self._check(x)
        with without_autocast(x.device.type):
            query, key, _ = self._project(at_least_float32(x), *self._weights())
            return {"attention": received_attention(query, key, x.shape[2:])}

    def count_macs(self, x: Tensor) -> int:
        """Count the multiply-accumulates of the definition, without the zeros that pick relative positions.

        With L positions: 3 C² L for the projections, L² C each for the products of queries with keys and of
        weights with values, and C times the sum of the sides for the relative positions of each query.
        """
        length = math.prod(x.shape[2:])
        per_position = 3 * x.shape[1] + 2 * length + sum(x.shape[2:])
        return x.shape[0] * length * x.shape[1] * per_position

    def extra_repr(self) -> str:
        """Return the options that the printed layer does not show."""
        return f"heads={self.heads}, max_size={self.max_size}, dims={self.dims}"

    def _weights(self) -> list[Tensor]:
        return [self.qkv.weight, *(getattr(self, f"relative_{axis}") for axis in _AXES[-self.dims :])]

    def _add_attention(self, x: Tensor, gamma: Tensor, *weights: Tensor) -> Tensor:
        query, key, value = self._project(x, *weights)
        query, key, value = map(_aligned, (limited(query, key), key, value))
        if x.device.type == "cpu":  # whose fused kernel takes equal widths alone
            value = F.pad(value, (0, key.shape[-1] - value.shape[-1]))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., : self.width]
        return x + (gamma * attended).transpose(2, 3).reshape(x.shape)

    def _project(self, x: Tensor, weight: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, whose products are the logits, and values: each (N, heads, L, …).

        What a query q adds to the logit of a key at y is a number for each coordinate of y, q r. So these
        numbers are appended to the query, and to the key a 1 at its coordinates and 0 elsewhere: their
        product picks them. A bias of positions x positions entries would need far more memory.
        """
        sizes = x.shape[2:]
        wide = at_least_float32(weight)
        qkv = at_least_float32(F.conv1d(x.flatten(2).to(wide.dtype), wide))  # (N, 3C, L)
        heads = qkv.reshape(x.shape[0], 3, self.heads, self.width, qkv.shape[2]).transpose(3, 4)
        query, key, value = heads.unbind(1)
        query = self.width**-0.5 * query
        queries, keys = [query], [key]
        for axis, table in enumerate(tables):
            queries.append(_relative_logits(query, table, sizes, axis))
            keys.append(_coordinates(key, sizes, axis))
        return torch.cat(queries, -1), torch.cat(keys, -1), value

    def _check(self, x: Tensor) -> None:
        positions.check_feature_map(self, x, self.dims)
        if any(size > self.max_size for size in x.shape[2:]):
            raise UsageError(
                f"MHSA has relative positions for maps of up to {self.max_size} positions along each axis, "
                f"but was given {tuple(x.shape)}. Make it with max_size={max(x.shape[2:])}."
            )


def _aligned(rows: Tensor) -> Tensor:
    """Append zeros to (..., width) up to the next width that the fused kernels take, in contiguous memory."""
    missing = -rows.shape[-1] % _MULTIPLE
    return F.pad(rows, (0, missing)) if missing else rows.contiguous()


def _relative_logits(query: Tensor, table: Tensor, sizes: torch.Size, axis: int) -> Tensor:
    """Return what queries add to the logits of keys, by the keys' coordinates on an axis.

    Args:
        query: (N, heads, L, width).
        table: Relative positions of the axis, (2 * max_size - 1, width).
        sizes: Of the map, whose product is L.
        axis: Index of the axis in ``sizes``.

    Returns:
        (N, heads, L, size of the axis).
    """
    grid = query.reshape(*query.shape[:2], *sizes, table.shape[1]).movedim(2 + axis, -2)  # (..., size, width)
    relative = _relative_positions(table, sizes[axis]).to(query.dtype)
    return torch.einsum("...xd,xyd->...xy", grid, relative).movedim(-2, 2 + axis).flatten(2, -2)


def _relative_positions(table: Tensor, size: int) -> Tensor:
    """Return the row of the table for every offset y - x, as (x, y, width): (size, size, width)."""
    unused = (table.shape[0] + 1) // 2 - size
    rows = F.pad(table[unused : table.shape[0] - unused], (0, 0, 0, 1))  # (2 * size, width)
    # Copies of the rows that are read as if each had one row less: by one row earlier for each x. Not with
    # indices, whose gradient is a sum in any order on CUDA.
    windows = rows.expand(size, -1, -1).flatten(0, 1)[size - 1 : -1]
    return windows.reshape(size, 2 * size - 1, -1)[:, :size]


def _coordinates(key: Tensor, sizes: torch.Size, axis: int) -> Tensor:
    """Return 1 at each key's coordinate on an axis and 0 elsewhere, (N, heads, L, size of the axis)."""
    size = sizes[axis]
    coordinate = torch.eye(size, dtype=key.dtype, device=key.device)
    coordinate = coordinate.reshape(size, *[1] * (len(sizes) - 1 - axis), size)
    return coordinate.expand(*key.shape[:2], *sizes, size).flatten(2, -2)
