"""Passes over the positions: the pools of the channel gate with the BatchNorm before it, and back."""

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
    through_maps,
    tile,
    tracking_rate,
)


@kernel
def sums_kernel(
    x, gate, weight, running_mean, channels, parts, N, P, part, splits,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, BATCH: tl.constexpr, SPATIAL_FIRST: tl.constexpr,
    MAXIMUM: tl.constexpr, VECTOR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Reduce ``part`` positions of an image, 1 read: sum, maximum and, for the BatchNorm, sum of squares.

    Of x - pivot, or of x s where the spatial gate comes first. The maximum is that of x, in which the least x
    counts where the BatchNorm's weight is negative: it becomes the maximum.
    """
    row = tl.program_id(0)  # image by image, split by split
    n, split = row // splits, row % splits
    P, start = multiple(P, VECTOR), multiple(split * part, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < C
    pivot = tl.zeros((BLOCK_C,), tl.float32)
    sign = tl.full((BLOCK_C,), 1.0, tl.float32)
    if NORM:
        sign = tl.where(tl.load(weight + c, mask=known, other=0.0) < 0, -1.0, 1.0)
        if (
            BATCH
        ):  # any pivot will do that is a few standard deviations from the mean; every program finds the same
            near, there = tile(tl.arange(0, 16), c, P, C, NHWC)
            sample = tl.load(x + near, mask=there, other=0.0).to(tl.float32)
            pivot = tl.sum(sample, 0) / tl.minimum(P, 16)
        else:
            pivot = tl.load(running_mean + c, mask=known, other=0.0).to(tl.float32)
        if row == 0:
            tl.store(channels + c, pivot, mask=known)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    square = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    peak = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float32)
    image = x + n.to(tl.int64) * P * C
    for p0 in range(start, tl.minimum(P, start + part), BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = tile(p, c, P, C, NHWC)
        value = tl.load(image + at, mask=inside, other=0.0).to(tl.float32)
        if SPATIAL_FIRST:
            value = value * tl.load(gate + n * P + p, mask=p < P, other=0.0)[:, None]
        if NORM:
            off = tl.where(inside, value - pivot[None, :], 0.0)
            square += off * off
        else:
            off = value
        total += off
        if MAXIMUM:
            peak = tl.maximum(peak, tl.where(inside, value * sign[None, :], float("-inf")))
    to = parts + (split * N + n) * C + c
    tl.store(to, tl.sum(total, 0), mask=known)
    if NORM:
        tl.store(to + splits * N * C, tl.sum(square, 0), mask=known)
    if MAXIMUM:
        tl.store(to + 2 * splits * N * C, tl.max(peak, 0), mask=known)


@triton.jit
def _sum_batch(parts, c, rows, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the sums over all images of x - pivot and of its square."""
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    square = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for r0 in range(0, rows, BLOCK_N):
        at, inside = tile(r0 + tl.arange(0, BLOCK_N), c, rows, C, True)
        total += tl.load(parts + at, mask=inside, other=0.0)
        square += tl.load(parts + rows * C + at, mask=inside, other=0.0)
    return tl.sum(total, 0), tl.sum(square, 0)


@kernel
def totals_kernel(
    parts, channels, totals, N, P, splits, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Sums of x and of its square for an all-reduce, and the number of values."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < C
    total, square = _sum_batch(parts, c, splits * N, C, BLOCK_N, BLOCK_C)
    # The pivots of the processes differ, so the sums are about 0; in float64 a large mean cancels nothing.
    first, second, count = total.to(tl.float64), square.to(tl.float64), (N * P).to(tl.float64)
    pivot = tl.load(channels + c, mask=known & (N > 0), other=0.0).to(tl.float64)  # no images, no pivot
    tl.store(totals + c, first + count * pivot, mask=known)
    tl.store(totals + C + c, second + 2 * pivot * first + count * pivot * pivot, mask=known)
    if tl.program_id(0) == 0:
        tl.store(totals + 2 * C, count)


@triton.jit
def _batch_statistics(
    parts, totals, pivot, c, N, P, splits,
    C: tl.constexpr, SYNC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the mean, the mean less the pivot, the variance, and the number of values of a channel."""
    if SYNC:
        number = tl.load(totals + 2 * C)
        wide = tl.load(totals + c, mask=c < C, other=0.0) / number
        variance = (tl.load(totals + C + c, mask=c < C, other=0.0) / number - wide * wide).to(tl.float32)
        mean, centre, count = wide.to(tl.float32), (wide - pivot).to(tl.float32), number.to(tl.float32)
    else:
        total, square = _sum_batch(parts, c, splits * N, C, BLOCK_N, BLOCK_C)
        count = (N * P).to(tl.float32)
        centre = total / count
        mean, variance = pivot + centre, square / count - centre * centre
    return mean, centre, tl.maximum(variance, 0.0), count


@kernel
def statistics_kernel(
    parts, weight, running_mean, running_var, batches, channels, images, totals, N, P, splits, eps, momentum,
    C: tl.constexpr, NORM: tl.constexpr, BATCH: tl.constexpr, TRACK: tl.constexpr, SYNC: tl.constexpr,
    MAXIMUM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Finish the sums: the BatchNorm's statistics, and the pools of every image."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < C
    pivot = tl.zeros((BLOCK_C,), tl.float32)
    centre = tl.zeros((BLOCK_C,), tl.float32)
    rstd = tl.full((BLOCK_C,), 1.0, tl.float32)
    gamma = tl.full((BLOCK_C,), 1.0, tl.float32)
    if NORM:
        pivot = tl.load(channels + c, mask=known, other=0.0)
        gamma = tl.load(weight + c, mask=known, other=0.0)
        share = tl.zeros((BLOCK_C,), tl.float32)
        if BATCH:
            mean, centre, variance, count = _batch_statistics(
                parts, totals, pivot, c, N, P, splits, C, SYNC, BLOCK_N, BLOCK_C
            )
            share += 1.0 / count
            if TRACK:
                rate = tracking_rate(momentum, batches)
                move(running_mean + c, mean, rate, known)
                move(running_var + c, variance * (count / tl.maximum(count - 1.0, 1.0)), rate, known)
        else:
            variance = tl.load(running_var + c, mask=known, other=1.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(variance + eps)
        tl.store(channels + C + c, centre, mask=known)
        tl.store(channels + 2 * C + c, rstd, mask=known)
        tl.store(channels + 3 * C + c, share, mask=known)
    for n0 in range(0, N, BLOCK_N):
        at, inside = tile(n0 + tl.arange(0, BLOCK_N), c, N, C, True)
        total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        peak = tl.full((BLOCK_N, BLOCK_C), float("-inf"), tl.float32)
        for split in range(splits):
            total += tl.load(parts + split * N * C + at, mask=inside, other=0.0)
            if MAXIMUM:
                to = parts + (2 * splits + split) * N * C + at
                peak = tl.maximum(peak, tl.load(to, mask=inside, other=0.0))
        average = (total / P - centre[None, :]) * rstd[None, :]
        tl.store(images + at, average, mask=inside)
        if MAXIMUM:
            extreme = tl.where(gamma < 0, -1.0, 1.0)[None, :] * peak
            peak = ((extreme - pivot[None, :]) - centre[None, :]) * rstd[None, :]
            peak = tl.where(gamma[None, :] == 0, average, peak)  # every element is the maximum then
            tl.store(images + N * C + at, peak, mask=inside)
            tl.store(images + 2 * N * C + at, extreme, mask=inside)


@kernel
def row_sums_kernel(
    x, g, d_out, out, gate, channels, images, maps, points, parts, N, P, part, splits,
    C: tl.constexpr, NHWC: tl.constexpr, NORM: tl.constexpr, RELU: tl.constexpr, SPATIAL: tl.constexpr,
    GATED: tl.constexpr, SPATIAL_FIRST: tl.constexpr, MAXIMUM: tl.constexpr,
    VECTOR: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Back over the positions, 2 reads: sums of e and of e (x - pivot), and ties of the maximum.

    Where the spatial gate comes first, x s takes the place of x, and e is the incoming gradient.
    """
    row = tl.program_id(0)
    n, split = row // splits, row % splits
    P, start = multiple(P, VECTOR), multiple(split * part, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    pivot, by, plus = load_affine(channels, images, n, N, c, C, NORM)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    moment = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    ties = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    image = n.to(tl.int64) * P * C
    for p0 in range(start, tl.minimum(P, start + part), BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        at, inside = tile(p, c, P, C, NHWC)
        value = tl.load(x + image + at, mask=inside, other=0.0).to(tl.float32)
        if RELU and not SPATIAL:
            e = relu_gradient(d_out, out, g, image + at, inside)
        else:
            e = tl.load(g + image + at, mask=inside, other=0.0).to(tl.float32)
        if SPATIAL:
            s = tl.load(gate + n * P + p, mask=p < P, other=0.0)[:, None]
            if SPATIAL_FIRST:
                value = value * s
            else:
                e = e * s
        if GATED:
            m1 = tl.load(maps + n * 2 * P + p, mask=p < P, other=0.0)
            e += through_maps(gated(value, pivot, by, plus), m1, points, n, p, N, P)
        e = tl.where(inside, e, 0.0)
        total += e
        moment += e * (value - pivot[None, :])
        if MAXIMUM:
            extreme = tl.load(images + (2 * N + n) * C + c, mask=c < C, other=0.0)
            ties += tl.where(inside & (value == extreme[None, :]), 1.0, 0.0)
    to = parts + (split * N + n) * C + c
    tl.store(to, tl.sum(total, 0), mask=c < C)
    tl.store(to + splits * N * C, tl.sum(moment, 0), mask=c < C)
    if MAXIMUM:
        tl.store(to + 2 * splits * N * C, tl.sum(ties, 0), mask=c < C)


@kernel
def rows_kernel(
    parts, channels, images, weight, bias, rows, N, splits,
    C: tl.constexpr, NORM: tl.constexpr, MAXIMUM: tl.constexpr, FACTOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Finish them, rows 0 to 3: sums of e and of e normalised x, ties, gradient of the logits."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    at, inside = tile(tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), c, N, C, True)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    moment = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    ties = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for split in range(splits):
        total += tl.load(parts + split * N * C + at, mask=inside, other=0.0)
        moment += tl.load(parts + (splits + split) * N * C + at, mask=inside, other=0.0)
        if MAXIMUM:
            ties += tl.load(parts + (2 * splits + split) * N * C + at, mask=inside, other=0.0)
    d_gate = moment
    if NORM:
        centre = tl.load(channels + C + c, mask=c < C, other=0.0)[None, :]
        moment = (moment - centre * total) * tl.load(channels + 2 * C + c, mask=c < C, other=0.0)[None, :]
        gamma = tl.load(weight + c, mask=c < C, other=0.0)[None, :]
        d_gate = gamma * moment + tl.load(bias + c, mask=c < C, other=0.0)[None, :] * total
        tl.store(rows + at, total, mask=inside)
        tl.store(rows + N * C + at, moment, mask=inside)
    if MAXIMUM:
        tl.store(rows + 2 * N * C + at, ties, mask=inside)
    gate = tl.load(images + 3 * N * C + at, mask=inside, other=0.0)
    tl.store(rows + 3 * N * C + at, d_gate * gate * (1 - gate / FACTOR), mask=inside)
