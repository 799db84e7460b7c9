"""The MLP of the channel gate, forward and backward; R is the number of hidden units."""

from __future__ import annotations

import triton
import triton.language as tl

from cbam_lightning.attention.fused.kernels.elements import kernel, relu, tile


@triton.jit
def _pool(images, which, weight, bias, n, c, N, C: tl.constexpr, NORM: tl.constexpr):
    """Return a pool of z for images n x channels c: 0 is the mean, 1 the maximum."""
    at, inside = tile(n, c, N, C, True)
    pool = tl.load(images + which * N * C + at, mask=inside, other=0.0)
    if NORM:
        gamma = tl.load(weight + c, mask=c < C, other=0.0)[None, :]
        pool = tl.where(inside, pool * gamma + tl.load(bias + c, mask=c < C, other=0.0)[None, :], 0.0)
    return pool


@kernel
def hidden_kernel(
    images, weight, bias, w1, b1, hidden, N, R,
    C: tl.constexpr, NORM: tl.constexpr, MAXIMUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute the hidden units for every pool."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    from_mean = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    from_peak = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        w = tl.load(w1 + r[None, :] * C + c[:, None], mask=(r < R)[None, :] & (c < C)[:, None], other=0.0)
        mean = _pool(images, 0, weight, bias, n, c, N, C, NORM)
        from_mean = tl.dot(mean, w, from_mean, input_precision="ieee")
        if MAXIMUM:
            peak = _pool(images, 1, weight, bias, n, c, N, C, NORM)
            from_peak = tl.dot(peak, w, from_peak, input_precision="ieee")
    at, inside = n[:, None] * R + r[None, :], (n < N)[:, None] & (r < R)[None, :]
    b = tl.load(b1 + r, mask=r < R, other=0.0)[None, :]
    tl.store(hidden + at, relu(from_mean + b), mask=inside)
    if MAXIMUM:
        tl.store(hidden + N * R + at, relu(from_peak + b), mask=inside)


@kernel
def gate_kernel(
    hidden, w2, b2, weight, bias, batches, channels, images, N, R,
    C: tl.constexpr, NORM: tl.constexpr, TRACK: tl.constexpr, MAXIMUM: tl.constexpr, FACTOR: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute the channel gate, and with it by and plus; count the batch, which no kernel reads any more."""
    if TRACK:
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            tl.store(batches, tl.load(batches) + 1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < C
    logits = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        at, inside = n[:, None] * R + r[None, :], (n < N)[:, None] & (r < R)[None, :]
        h = tl.load(hidden + at, mask=inside, other=0.0)
        if MAXIMUM:
            h += tl.load(hidden + N * R + at, mask=inside, other=0.0)
        w = tl.load(w2 + c[None, :] * R + r[:, None], mask=(r < R)[:, None] & known[None, :], other=0.0)
        logits = tl.dot(h, w, logits, input_precision="ieee")
    b = tl.load(b2 + c, mask=known, other=0.0)[None, :]
    if MAXIMUM:
        b = 2 * b  # one for each pool
    gate = FACTOR * tl.sigmoid(logits + b)
    at, inside = tile(n, c, N, C, True)
    tl.store(images + 3 * N * C + at, gate, mask=inside)
    if NORM:
        scale = tl.load(weight + c, mask=known, other=0.0) * tl.load(
            channels + 2 * C + c, mask=known, other=0.0
        )
        plus = (
            tl.load(bias + c, mask=known, other=0.0)
            - tl.load(channels + C + c, mask=known, other=0.0) * scale
        )
        tl.store(images + 4 * N * C + at, scale[None, :] * gate, mask=inside)
        tl.store(images + 5 * N * C + at, plus[None, :] * gate, mask=inside)
    else:
        tl.store(images + 4 * N * C + at, gate, mask=inside)


@kernel
def hidden_gradient_kernel(
    rows, w2, hidden, d_hidden, N, R,
    C: tl.constexpr, MAXIMUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute the gradient before the MLP's ReLU for every pool."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    for c0 in range(0, C, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        at, inside = tile(n, c, N, C, True)
        d_logits = tl.load(rows + 3 * N * C + at, mask=inside, other=0.0)
        w = tl.load(w2 + c[:, None] * R + r[None, :], mask=(c < C)[:, None] & (r < R)[None, :], other=0.0)
        d = tl.dot(d_logits, w, d, input_precision="ieee")
    at, inside = n[:, None] * R + r[None, :], (n < N)[:, None] & (r < R)[None, :]
    mean = tl.load(hidden + at, mask=inside, other=0.0)
    tl.store(d_hidden + at, tl.where(mean > 0, d, 0.0), mask=inside)
    if MAXIMUM:
        peak = tl.load(hidden + N * R + at, mask=inside, other=0.0)
        tl.store(d_hidden + N * R + at, tl.where(peak > 0, d, 0.0), mask=inside)


@kernel
def pools_gradient_kernel(
    d_hidden, w1, weight, channels, images, rows, N, R, P,
    C: tl.constexpr, NORM: tl.constexpr, MAXIMUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows 4 to 7: what d_x gets from the mean and from the maximum; shares of d_bias and d_weight."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    d_mean = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    d_peak = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        at, inside = n[:, None] * R + r[None, :], (n < N)[:, None] & (r < R)[None, :]
        w = tl.load(w1 + r[:, None] * C + c[None, :], mask=(r < R)[:, None] & (c < C)[None, :], other=0.0)
        d = tl.load(d_hidden + at, mask=inside, other=0.0)
        d_mean = tl.dot(d, w, d_mean, input_precision="ieee")
        if MAXIMUM:
            d = tl.load(d_hidden + N * R + at, mask=inside, other=0.0)
            d_peak = tl.dot(d, w, d_peak, input_precision="ieee")
    at, inside = tile(n, c, N, C, True)
    scale = tl.full((1, BLOCK_C), 1.0, tl.float32)
    if NORM:
        rstd = tl.load(channels + 2 * C + c, mask=c < C, other=0.0)
        scale = (tl.load(weight + c, mask=c < C, other=0.0) * rstd)[None, :]
        gate = tl.load(images + 3 * N * C + at, mask=inside, other=0.0)
        by_bias = gate * tl.load(rows + at, mask=inside, other=0.0) + d_mean + d_peak
        by_weight = gate * tl.load(rows + N * C + at, mask=inside, other=0.0)
        by_weight += d_mean * tl.load(images + at, mask=inside, other=0.0)
        if MAXIMUM:
            by_weight += d_peak * tl.load(images + N * C + at, mask=inside, other=0.0)
        tl.store(rows + 6 * N * C + at, by_bias, mask=inside)
        tl.store(rows + 7 * N * C + at, by_weight, mask=inside)
    tl.store(rows + 4 * N * C + at, scale * d_mean / P, mask=inside)
    if MAXIMUM:
        ties = tl.load(rows + 2 * N * C + at, mask=inside, other=1.0)
        tl.store(rows + 5 * N * C + at, scale * d_peak / ties, mask=inside)


@kernel
def parameters_kernel(
    rows, images, hidden, d_hidden, weight, bias, d_weight, d_bias, d_w1, d_b1, d_w2, d_b2, N, R,
    C: tl.constexpr, NORM: tl.constexpr, MAXIMUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum over the images: the gradients of the MLP's and the BatchNorm's parameters."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    by_w1 = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    by_w2 = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    by_b1 = tl.zeros((BLOCK_R,), tl.float32)
    by_b2 = tl.zeros((BLOCK_C,), tl.float32)
    by_bias = tl.zeros((BLOCK_C,), tl.float32)
    by_weight = tl.zeros((BLOCK_C,), tl.float32)
    for n0 in range(0, N, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        at, inside = tile(n, c, N, C, True)
        to, there = n[None, :] * R + r[:, None], (n < N)[None, :] & (r < R)[:, None]  # transposed
        d = tl.load(d_hidden + to, mask=there, other=0.0)
        h = tl.load(hidden + to, mask=there, other=0.0)
        by_w1 = tl.dot(d, _pool(images, 0, weight, bias, n, c, N, C, NORM), by_w1, input_precision="ieee")
        if MAXIMUM:
            d_peak = tl.load(d_hidden + N * R + to, mask=there, other=0.0)
            h += tl.load(hidden + N * R + to, mask=there, other=0.0)
            peak = _pool(images, 1, weight, bias, n, c, N, C, NORM)
            by_w1 = tl.dot(d_peak, peak, by_w1, input_precision="ieee")
            d += d_peak
        by_b1 += tl.sum(d, 1)  # once a round: Triton 3.8 does not compile two such sums
        d_logits = tl.load(rows + 3 * N * C + at, mask=inside, other=0.0)
        by_w2 = tl.dot(h, d_logits, by_w2, input_precision="ieee")
        by_b2 += tl.sum(d_logits, 0)
        if NORM:
            by_bias += tl.sum(tl.load(rows + 6 * N * C + at, mask=inside, other=0.0), 0)
            by_weight += tl.sum(tl.load(rows + 7 * N * C + at, mask=inside, other=0.0), 0)
    inside = (r < R)[:, None] & (c < C)[None, :]
    tl.store(d_w1 + r[:, None] * C + c[None, :], by_w1, mask=inside)
    tl.store(d_w2 + c[None, :] * R + r[:, None], by_w2, mask=inside)
    if tl.program_id(0) == 0:
        tl.store(d_b1 + r, by_b1, mask=r < R)
    if tl.program_id(1) == 0:
        if MAXIMUM:
            by_b2 = 2 * by_b2  # one for each pool
        tl.store(d_b2 + c, by_b2, mask=c < C)
        if NORM:
            tl.store(d_bias + c, by_bias, mask=c < C)
            tl.store(d_weight + c, by_weight, mask=c < C)
