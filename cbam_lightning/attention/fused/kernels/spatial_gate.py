"""Passes over the channels: the maps of the spatial gate, their convolution and its BatchNorm, and back."""

from __future__ import annotations

import triton
import triton.language as tl

from cbam_lightning.attention.fused.kernels.elements import (
    gated,
    kernel,
    load_affine,
    move,
    multiple,
    relu_gradient,
    through_pools,
    tile,
    tracking_rate,
)


@kernel
def maps_kernel(
    x, channels, images, maps, N, P,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr,
    VECTOR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Reduce the channels, 1 read: maximum and mean of w, or of x where no channel gate comes before."""
    P = multiple(P, VECTOR)
    p, n = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.program_id(1)
    image = x + n.to(tl.int64) * P * C
    # Element by element first: one reduction across threads at the end, however many channels.
    peak = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        at, inside = tile(p, c, P, C, NHWC)
        w = tl.load(image + at, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            pivot, by, plus = load_affine(channels, images, n, N, c, C, NORM)
            w = gated(w, pivot, by, plus)
        peak = tl.maximum(peak, tl.where(inside, w, float("-inf")))
        total += tl.where(inside, w, 0.0)
    tl.store(maps + n * 2 * P + p, tl.max(peak, 1), mask=p < P)
    tl.store(maps + (n * 2 + 1) * P + p, tl.sum(total, 1) / C, mask=p < P)


@kernel
def convolve_kernel(
    maps, weight, convolved, parts, P, H, W, tiles, programs,
    KH: tl.constexpr, KW: tl.constexpr, TAP: tl.constexpr, MAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolve the maps; every program leaves the mean and the sum of squared differences from it."""
    n, window = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    p = window * BLOCK + tl.arange(0, BLOCK)
    i, j = p // W, p % W
    y = tl.zeros((BLOCK,), tl.float32)
    for di in range(KH):
        for dj in tl.static_range(KW):
            a, b = i + di - KH // 2, j + dj - KW // 2
            inside = (p < P) & (a >= 0) & (a < H) & (b >= 0) & (b < W)
            at = maps + n * 2 * P + a * W + b
            y += tl.load(at, mask=inside, other=0.0) * tl.load(weight + (di * KW + dj) * TAP)
            y += tl.load(at + P, mask=inside, other=0.0) * tl.load(weight + (di * KW + dj) * TAP + MAP)
    tl.store(convolved + n * P + p, y, mask=p < P)
    mean = tl.sum(tl.where(p < P, y, 0.0), 0) / tl.minimum(P - window * BLOCK, BLOCK)
    off = tl.where(p < P, y - mean, 0.0)
    tl.store(parts + tl.program_id(0), mean)
    tl.store(parts + programs + tl.program_id(0), tl.sum(off * off, 0))


@triton.jit
def _batch_moments(parts, N, P, tiles, programs, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Return mean and variance of the convolved maps, from those of the windows."""
    total = tl.zeros((BLOCK,), tl.float32)
    for i0 in range(0, programs, BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        total += tl.load(parts + i, mask=i < programs, other=0.0) * tl.minimum(
            P - (i % tiles) * WINDOW, WINDOW
        )
    count = (N * P).to(tl.float32)
    mean = tl.sum(total, 0) / count
    square = tl.zeros((BLOCK,), tl.float32)
    for i0 in range(0, programs, BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        off = tl.load(parts + i, mask=i < programs, other=0.0) - mean
        within = tl.load(parts + programs + i, mask=i < programs, other=0.0)
        square += tl.where(
            i < programs, within + off * off * tl.minimum(P - (i % tiles) * WINDOW, WINDOW), 0.0
        )
    return mean, tl.sum(square, 0) / count, count


@kernel
def spatial_totals_kernel(
    parts, totals, N, P, tiles, programs, WINDOW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: sums of the convolved maps and of their squares for an all-reduce, and their number."""
    mean, variance, count = _batch_moments(parts, N, P, tiles, programs, WINDOW, BLOCK)
    count = count.to(tl.float64)
    mean = tl.where(count > 0, mean.to(tl.float64), 0.0)
    variance = tl.where(count > 0, variance.to(tl.float64), 0.0)
    tl.store(totals, count * mean)
    tl.store(totals + 1, count * (variance + mean * mean))
    tl.store(totals + 2, count)


@kernel
def spatial_gate_kernel(
    convolved, parts, weight, bias, running_mean, running_var, batches, totals, spatial, gate,
    N, P, tiles, programs, eps, momentum,
    BATCH: tl.constexpr, TRACK: tl.constexpr, SYNC: tl.constexpr,
    FACTOR: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Normalise the convolved maps and compute the gate.

    Every program makes the same sums in the same order. The first one moves the running statistics.
    """
    first = tl.program_id(0) == 0
    share = 0.0
    if BATCH:
        if SYNC:
            number = tl.load(totals + 2)
            wide = tl.load(totals) / number
            variance = tl.maximum((tl.load(totals + 1) / number - wide * wide).to(tl.float32), 0.0)
            mean, count = wide.to(tl.float32), number.to(tl.float32)
        else:
            mean, variance, count = _batch_moments(parts, N, P, tiles, programs, WINDOW, BLOCK)
        share = 1.0 / count
        if TRACK:
            if first:
                rate = tracking_rate(momentum, batches)
                move(running_mean, mean, rate, True)
                move(running_var, variance * (count / tl.maximum(count - 1.0, 1.0)), rate, True)
                tl.store(batches, tl.load(batches) + 1)
    else:
        mean, variance = tl.load(running_mean).to(tl.float32), tl.load(running_var).to(tl.float32)
    rstd = 1.0 / tl.sqrt(variance + eps)
    if first:
        tl.store(spatial, mean)
        tl.store(spatial + 1, rstd)
        tl.store(spatial + 2, share)
    scale, shift = tl.load(weight), tl.load(bias)
    for i0 in range(tl.program_id(0) * BLOCK, N * P, tl.num_programs(0) * BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        hat = (tl.load(convolved + i, mask=i < N * P, other=0.0) - mean) * rstd
        tl.store(gate + i, FACTOR * tl.sigmoid(hat * scale + shift), mask=i < N * P)


@kernel
def points_kernel(
    x, g, d_out, out, channels, images, rows, maps, convolved, gate, spatial, points, parts, N, P, tiles,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, RELU: tl.constexpr, CHANNEL: tl.constexpr,
    GATED: tl.constexpr, SPATIAL_FIRST: tl.constexpr, MAXIMUM: tl.constexpr, FACTOR: tl.constexpr,
    VECTOR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Back over the channels, 2 reads (with the ReLU 3, and 1 write): gradient of the logits, and ties."""
    P = multiple(P, VECTOR)
    p, n = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P), tl.program_id(1)
    image = n.to(tl.int64) * P * C
    m1 = tl.load(maps + n * 2 * P + p, mask=p < P, other=0.0)
    s = tl.load(gate + n * P + p, mask=p < P, other=0.0)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    ties = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        at, inside = tile(p, c, P, C, NHWC)
        at += image
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            d = relu_gradient(d_out, out, g, at, inside)
        else:
            d = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        pooled = value
        if CHANNEL:
            pivot, by, plus = load_affine(channels, images, n, N, c, C, NORM)
            if SPATIAL_FIRST:
                d = d * by[None, :] + through_pools(value * s[:, None], images, rows, n, N, c, C, MAXIMUM)
            else:
                value = gated(value, pivot, by, plus)
            if GATED:
                pooled = value
        total += tl.where(inside, d * value, 0.0)
        ties += tl.where(inside & (pooled == m1[:, None]), 1.0, 0.0)
    d_logit = tl.where(p < P, tl.sum(total, 1) * s * (1 - s / FACTOR), 0.0)
    hat = tl.load(convolved + n * P + p, mask=p < P, other=0.0) - tl.load(spatial)
    to = points + n * P + p
    tl.store(to, d_logit, mask=p < P)
    tl.store(to + N * P, tl.sum(ties, 1), mask=p < P)
    program = n * tiles + tl.program_id(0)
    tl.store(parts + program, tl.sum(d_logit, 0))
    tl.store(parts + N * tiles + program, tl.sum(d_logit * hat, 0) * tl.load(spatial + 1))


@kernel
def spatial_sums_kernel(parts, d_weight, d_bias, programs, BLOCK: tl.constexpr):
    """One program: the gradients of the BatchNorm's parameters."""
    by_bias = tl.zeros((BLOCK,), tl.float32)
    by_weight = tl.zeros((BLOCK,), tl.float32)
    for i0 in range(0, programs, BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        by_bias += tl.load(parts + i, mask=i < programs, other=0.0)
        by_weight += tl.load(parts + programs + i, mask=i < programs, other=0.0)
    tl.store(d_bias, tl.sum(by_bias, 0))
    tl.store(d_weight, tl.sum(by_weight, 0))


@triton.jit
def _normalised_gradient(points, convolved, mean, scale, level, slope, at, inside):
    """Return the gradient of the convolution's output, 0 outside of the image."""
    d_logit = tl.load(points + at, mask=inside, other=0.0)
    y = tl.load(convolved + at, mask=inside, other=0.0)
    return tl.where(inside, scale * d_logit + level + slope * (y - mean), 0.0)


@kernel
def convolution_gradient_kernel(
    maps, weight, convolved, spatial, norm_weight, d_norm_weight, d_norm_bias, points, parts,
    N, P, H, W, tiles, programs,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, TAP: tl.constexpr, MAP: tl.constexpr,
    TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute q1 and q2, and a part of the gradient of the convolution's weight.

    ``d_norm_weight`` and ``d_norm_bias`` are sums over the whole batch, of all processes if synchronised.
    """
    n, window = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    p = window * BLOCK + tl.arange(0, BLOCK)
    i, j = p // W, p % W
    mean, rstd, share = tl.load(spatial), tl.load(spatial + 1), tl.load(spatial + 2)
    scale = tl.load(norm_weight) * rstd
    level, slope = -scale * tl.load(d_norm_bias) * share, -scale * rstd * tl.load(d_norm_weight) * share
    d_m1 = tl.zeros((BLOCK,), tl.float32)
    d_m2 = tl.zeros((BLOCK,), tl.float32)
    for di in range(KH):
        for dj in tl.static_range(KW):
            tap = di * KW + dj
            a, b = i - (di - KH // 2), j - (dj - KW // 2)  # whose output this position went to by this tap
            inside = (p < P) & (a >= 0) & (a < H) & (b >= 0) & (b < W)
            at = n * P + a * W + b
            d_y = _normalised_gradient(points, convolved, mean, scale, level, slope, at, inside)
            d_m1 += d_y * tl.load(weight + tap * TAP)
            d_m2 += d_y * tl.load(weight + tap * TAP + MAP)
    ties = tl.load(points + (N + n) * P + p, mask=p < P, other=1.0)
    tl.store(points + (2 * N + n) * P + p, d_m1 / ties, mask=p < P)
    tl.store(points + (3 * N + n) * P + p, d_m2 / C, mask=p < P)
    # The weight: all taps at once, so that threads add up once at the end and not once a tap.
    tap = tl.arange(0, TAPS)
    by_m1 = tl.zeros((ROWS, TAPS), tl.float32)
    by_m2 = tl.zeros((ROWS, TAPS), tl.float32)
    for q0 in range(window * BLOCK, tl.minimum(window * BLOCK + BLOCK, P), ROWS):
        q = q0 + tl.arange(0, ROWS)
        own = _normalised_gradient(points, convolved, mean, scale, level, slope, n * P + q, q < P)
        row = (q // W)[:, None] + (tap // KW)[None, :] - KH // 2  # what the output here was made from
        column = (q % W)[:, None] + (tap % KW)[None, :] - KW // 2
        known = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        known = known & (q < P)[:, None] & (tap < KH * KW)[None, :]
        source = maps + n * 2 * P + row * W + column
        by_m1 += own[:, None] * tl.load(source, mask=known, other=0.0)
        by_m2 += own[:, None] * tl.load(source + P, mask=known, other=0.0)
    to = parts + tap * programs + tl.program_id(0)
    tl.store(to, tl.sum(by_m1, 0), mask=tap < KH * KW)
    tl.store(to + KH * KW * programs, tl.sum(by_m2, 0), mask=tap < KH * KW)


@kernel
def weight_gradient_kernel(
    parts, d_weight, programs,
    KH: tl.constexpr, KW: tl.constexpr, TAP: tl.constexpr, MAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Finish the gradient of the convolution's weight: a program an element."""
    total = tl.zeros((BLOCK,), tl.float32)
    for i0 in range(0, programs, BLOCK):
        i = i0 + tl.arange(0, BLOCK)
        total += tl.load(parts + tl.program_id(0) * programs + i, mask=i < programs, other=0.0)
    which, tap = tl.program_id(0) // (KH * KW), tl.program_id(0) % (KH * KW)
    tl.store(d_weight + which * MAP + tap * TAP, tl.sum(total, 0))
