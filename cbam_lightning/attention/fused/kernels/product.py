"""The product of the map with its gates, or the end of a residual block; the gradient of the input."""

from __future__ import annotations

import triton.language as tl

from cbam_lightning.attention.fused.kernels.elements import (
    gated,
    kernel,
    load_affine,
    multiple,
    relu,
    through_maps,
    through_pools,
    tile,
)


@kernel
def product_kernel(
    x, shortcut, out, channels, images, gate, N, P,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, RELU: tl.constexpr, CHANNEL: tl.constexpr,
    SPATIAL: tl.constexpr, VECTOR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write x times its gates, 1 read, 1 write; with the ReLU, relu(that + shortcut), 2 reads, 1 write."""
    P = multiple(P, VECTOR)
    p, n = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    at, inside = tile(p, c, P, C, NHWC)
    at += n.to(tl.int64) * P * C
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if CHANNEL:
        pivot, by, plus = load_affine(channels, images, n, N, c, C, NORM)
        value = gated(value, pivot, by, plus)
    if SPATIAL:
        value = value * tl.load(gate + n * P + p, mask=p < P, other=0.0)[:, None]
    if RELU:
        value = relu(value + tl.load(shortcut + at, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@kernel
def input_gradient_kernel(
    x, g, d_x, weight, d_weight, d_bias, channels, images, maps, gate, points, rows, N, P,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, CHANNEL: tl.constexpr, SPATIAL: tl.constexpr,
    GATED: tl.constexpr, SPATIAL_FIRST: tl.constexpr, MAXIMUM: tl.constexpr, VECTOR: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x, 2 reads and 1 write.

    ``d_weight`` and ``d_bias`` are sums over the whole batch, of all processes if synchronised.
    """
    P = multiple(P, VECTOR)
    p, n = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    at, inside = tile(p, c, P, C, NHWC)
    at += n.to(tl.int64) * P * C
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    if SPATIAL:
        s = tl.load(gate + n * P + p, mask=p < P, other=0.0)[:, None]
        m1 = tl.load(maps + n * 2 * P + p, mask=p < P, other=0.0)
    if CHANNEL:
        pivot, by, plus = load_affine(channels, images, n, N, c, C, NORM)
        if SPATIAL_FIRST:
            d = d * by[None, :] + through_pools(value * s, images, rows, n, N, c, C, MAXIMUM)
        else:
            if SPATIAL:
                d = d * s
            if GATED:
                d += through_maps(gated(value, pivot, by, plus), m1, points, n, p, N, P)
            d = by[None, :] * d + through_pools(value, images, rows, n, N, c, C, MAXIMUM)
    if SPATIAL_FIRST:
        d = d * s
    if SPATIAL:
        if not GATED:
            d += through_maps(value, m1, points, n, p, N, P)
    if NORM:
        known = c < C
        rstd = tl.load(channels + 2 * C + c, mask=known, other=0.0)
        share = tl.load(channels + 3 * C + c, mask=known, other=0.0)
        scale = tl.load(weight + c, mask=known, other=0.0) * rstd * share
        level = -scale * tl.load(d_bias + c, mask=known, other=0.0)
        slope = -scale * rstd * tl.load(d_weight + c, mask=known, other=0.0)
        centre = tl.load(channels + C + c, mask=known, other=0.0)
        d += level[None, :] + slope[None, :] * ((value - pivot[None, :]) - centre[None, :])
    tl.store(d_x + at, d.to(d_x.dtype.element_ty), mask=inside)
