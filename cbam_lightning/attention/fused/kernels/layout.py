"""Sizes that follow from the shape: blocks, programs, and how the workspaces are divided.

No size is tuned at run time: a training whose shapes change must not stop to tune.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

# A multiprocessor keeps some 8 of these programs; an H100 has 132 of them
# (https://docs.nvidia.com/cuda/hopper-tuning-guide).
_MULTIPROCESSORS = 132


class Sizes(NamedTuple):
    """The sizes of one call.

    Attributes:
        n: Images, N.
        c: Channels, C.
        h: Rows of an image; 1 if it has no rows.
        w: Positions in a row.
        r: Hidden units of the MLP, R; 0 without a channel gate.
        kernel: Height and width of the spatial gate's kernel; (0, 0) without a spatial gate.
        kernel_nhwc: Whether both maps lie side by side in that kernel, as in channels-last memory.
        itemsize: Bytes of an element of x.
        nhwc: Whether the channels lie side by side in memory, otherwise the positions.
    """

    n: int
    c: int
    h: int
    w: int
    r: int
    kernel: tuple[int, int]
    kernel_nhwc: bool
    itemsize: int
    nhwc: bool

    @property
    def p(self) -> int:
        """Positions of an image, P."""
        return self.h * self.w


def sizes_of(x: Tensor, mlp: list[Tensor], spatial: list[Tensor]) -> Sizes:
    """Return the sizes for x, (N, C, *positions), and the parameters of the gates."""
    n, c, *positions = x.shape
    sides = list(spatial[0].shape[2:]) if spatial else [0, 0]
    return Sizes(
        n,
        c,
        math.prod(positions[:-1]),
        positions[-1] if positions else 1,
        len(mlp[0]) if mlp else 0,
        (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1]),
        bool(spatial) and not spatial[0].is_contiguous(),
        x.element_size(),
        is_channels_last(x),
    )


def is_channels_last(x: Tensor) -> bool:
    """Return whether x, (N, C, *positions), lies in memory as (N, *positions, C)."""
    if x.ndim == 4:  # without a view
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).is_contiguous()


def in_one_layout(x: Tensor) -> Tensor:
    """Return x, copied if its elements lie in neither of both layouts."""
    return x if x.is_contiguous() or (x.ndim > 2 and is_channels_last(x)) else x.contiguous()


def in_layout_of(x: Tensor, other: Tensor) -> Tensor:
    """Return ``other`` in the layout of x, copied only if it has another one."""
    if not is_channels_last(x):
        return other.contiguous()
    return other if is_channels_last(other) else other.movedim(1, -1).contiguous().movedim(-1, 1)


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass, besides x and the output; all in float32.

    Attributes:
        channels: (4, C): pivot, mean less the pivot, 1 / standard deviation, 1 / values per channel (0 where
            the running statistics are used). Empty without a BatchNorm.
        images: (6, N, C): the pools (mean and maximum, normalised but without weight and bias), the element
            of x that becomes the maximum, the gate, by, plus.
        hidden: (2, N, R) or, without the maximum, (1, N, R): the hidden units of the MLP.
        maps: (N, 2, P): maximum and mean over the channels.
        convolved: (N, P): the output of the convolution.
        gate: (N, P): the spatial gate.
        spatial: mean, 1 / standard deviation and 1 / number of values of the convolution's BatchNorm.
    """

    channels: Tensor
    images: Tensor
    hidden: Tensor
    maps: Tensor
    convolved: Tensor
    gate: Tensor
    spatial: Tensor


def kept_sizes(sizes: Sizes, norm: bool, maximum: bool) -> list[int]:
    """Return the sizes of the parts of ``Kept``, padded so that each begins at a multiple of 128 bytes."""
    n, c, p, r = sizes.n, sizes.c, sizes.p, sizes.r
    channel, spatial = r > 0, sizes.kernel[0] > 0
    parts = [
        4 * c * norm,
        6 * n * c * channel,
        (1 + maximum) * n * r,
        2 * n * p * spatial,
        n * p * spatial,
        n * p * spatial,
        3 * spatial,
    ]
    return [padded(part) for part in parts]


def cdiv(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def padded(size: int) -> int:
    """Return the next multiple of 32 elements, which are 128 bytes."""
    return cdiv(size, 32) * 32


class Plan(NamedTuple):
    """Blocks and programs.

    Attributes:
        across: Block of the passes that reduce over the channels, or over nothing.
        along: Block of the passes that reduce over the positions.
        tiles: Blocks of positions that make an image, for ``across``.
        channel_tiles: Blocks of channels, for ``across``.
        part: Positions that a program of ``along`` reduces.
        splits: Parts that make an image.
        window: Positions of a program of the convolution.
        windows: Windows that make an image.
        block_c: Channels at a time where the MLP sums over them.
    """

    across: dict[str, int]
    along: dict[str, int]
    tiles: int
    channel_tiles: int
    part: int
    splits: int
    window: int
    windows: int
    block_c: int


@functools.lru_cache(maxsize=1024)
def make_plan(sizes: Sizes) -> Plan:
    """Return the blocks and programs for these sizes."""
    n, c, p = sizes.n, sizes.c, sizes.p
    wide = (
        2 if sizes.itemsize == 4 else 1
    )  # float32 in half the block: as many bytes in flight, fewer registers
    across = _blocks(c, p, sizes.nhwc, 4096 // wide, 128, 8)
    along = _blocks(c, p, sizes.nhwc, 2048 // wide, 64, 4)
    programs = max(1, n * cdiv(c, along["BLOCK_C"]))
    wanted = cdiv(8 * _MULTIPROCESSORS, programs)
    splits = max(1, min(wanted, p // (2 * along["BLOCK_P"])))  # each part two blocks at least
    part = cdiv(cdiv(p, splits), along["BLOCK_P"]) * along["BLOCK_P"]
    window = max(128, min(256, triton.next_power_of_2(p)))  # with 64 positions a warp, ptxas spills for sm_80
    return Plan(
        across,
        along,
        cdiv(p, across["BLOCK_P"]),
        cdiv(c, across["BLOCK_C"]),
        part,
        cdiv(p, part),
        window,
        cdiv(p, window),
        max(16, min(128, triton.next_power_of_2(c))),
    )


def _blocks(c: int, p: int, nhwc: bool, elements: int, widest: int, warps: int) -> dict[str, int]:
    """Return a block of at most ``elements``, up to ``widest`` long in the direction of memory.

    Both sides are shorter than the number of threads: Triton then loads what belongs to a side, by and plus
    for example, straight into every thread that needs it, and otherwise takes two barriers for each.
    """
    c, p = triton.next_power_of_2(c), triton.next_power_of_2(p)
    if nhwc:
        block_c = min(c, widest)
        block_p = min(p, elements // block_c, widest)
    else:
        block_p = min(p, widest)
        block_c = min(c, elements // block_p)
    warps = max(1, min(warps, block_p * block_c // 256))  # 8 elements a thread or more
    return {"BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": warps}
