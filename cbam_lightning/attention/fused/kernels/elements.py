"""What the kernels share: where an element lies, and what is computed in one place only."""

from __future__ import annotations

import functools

import triton
import triton.language as tl

# A kernel is compiled anew for another class of an argument (1, a multiple of 16, other), but not for these:
# the last batch of an epoch is smaller, and a training must not stop for it.
_SIZES = ["N", "P", "H", "W", "R", "splits", "part", "tiles", "programs"]
kernel = functools.partial(triton.jit, do_not_specialize=_SIZES)


@triton.jit
def multiple(size, VECTOR: tl.constexpr):
    """Return ``size``, a multiple of VECTOR, so that the compiler knows: it then loads as many at once."""
    return size // VECTOR * VECTOR


@triton.jit
def tile(p, c, P, C: tl.constexpr, NHWC: tl.constexpr):
    """Return where positions x channels lie within an image, and which of them exist."""
    if NHWC:
        at = p[:, None] * C + c[None, :]
    else:
        at = c[None, :] * P + p[:, None]
    return at, (p < P)[:, None] & (c < C)[None, :]


@triton.jit
def relu(x):
    """Return the maximum of x and 0; NaN stays, unlike in ``tl.maximum``."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def load_affine(channels, images, n, N, c, C: tl.constexpr, NORM: tl.constexpr):
    """Return pivot, by and plus for the channels c of image n."""
    known = c < C
    row = images + n * C + c
    by = tl.load(row + 4 * N * C, mask=known, other=0.0)
    if NORM:
        pivot = tl.load(channels + c, mask=known, other=0.0)
        plus = tl.load(row + 5 * N * C, mask=known, other=0.0)
    else:
        pivot = tl.zeros_like(by)
        plus = tl.zeros_like(by)
    return pivot, by, plus


@triton.jit
def gated(x, pivot, by, plus):
    """Return w, in the only place where it is computed: other kernels compare it with its maximum."""
    return tl.math.fma(x.to(tl.float32) - pivot[None, :], by[None, :], plus[None, :])


@triton.jit
def through_maps(value, m1, points, n, p, N, P):
    """Return the gradient that ``value`` receives through the maps of the spatial gate; m1 is its maximum."""
    to = points + n * P + p
    q1 = tl.load(to + 2 * N * P, mask=p < P, other=0.0)[:, None]
    q2 = tl.load(to + 3 * N * P, mask=p < P, other=0.0)[:, None]
    return q2 + tl.where(value == m1[:, None], q1, 0.0)


@triton.jit
def through_pools(value, images, rows, n, N, c, C: tl.constexpr, MAXIMUM: tl.constexpr):
    """Return the gradient that ``value`` receives through the pools of the channel gate."""
    known = c < C
    at = n * C + c
    gradient = tl.load(rows + 4 * N * C + at, mask=known, other=0.0)[None, :]
    if MAXIMUM:
        extreme = tl.load(images + 2 * N * C + at, mask=known, other=0.0)[None, :]
        at_peak = tl.load(rows + 5 * N * C + at, mask=known, other=0.0)[None, :]
        gradient += tl.where(value == extreme, at_peak, 0.0)
    return gradient


@triton.jit
def move(running, batch, rate, known):
    """Move running statistics towards those of the batch, as torch does."""
    old = tl.load(running, mask=known, other=0.0).to(tl.float32)
    tl.store(running, (1 - rate) * old + rate * batch, mask=known)


@triton.jit
def tracking_rate(momentum, batches):
    """Return the rate at which running statistics move; for a plain average, after ``batches`` batches."""
    rate = momentum
    if momentum < 0:
        rate = 1.0 / (tl.load(batches) + 1).to(tl.float32)
    return rate


@triton.jit
def relu_gradient(d_out, out, g, at, inside):
    """Return the gradient before the ReLU, and store it in g."""
    d = tl.load(d_out + at, mask=inside, other=0.0)
    d = tl.where(tl.load(out + at, mask=inside, other=0.0) <= 0, 0.0, d.to(tl.float32))
    tl.store(g + at, d.to(g.dtype.element_ty), mask=inside)
    return d


@triton.jit
def ones_kernel(to, BLOCK: tl.constexpr):
    """Write ones, to see whether a kernel can be started."""
    tl.store(to + tl.arange(0, BLOCK), 1.0)
