"""CBAM, SE and the end of a residual block as Triton kernels, for GPUs.

The passes are those of ``attend.py`` and ``block.py``, each as one kernel that is launched directly. The
kernels, a group of passes a file:

    channel_pools.py   sums and maxima over the positions, BatchNorm statistics; backward, the same sums
    channel_gate.py    the MLP of the channel gate, forward and backward
    spatial_gate.py    maxima and means over the channels, the convolution and its BatchNorm, and back
    product.py         the product with the gates, the addition and the ReLU; the gradient of the input

What starts them:

    sequence.py        what one call computes, and the constants of its kernels
    forward.py         the launches of the forward pass
    backward.py        those of the backward pass
    program.py         both recorded once, to be started with other addresses at every step
    operator.py        the whole as an operator of torch, with its gradient

``layout.py`` has the sizes of blocks and of workspaces, ``elements.py`` what the kernels share, ``probe.py``
finds out whether Triton works. Nothing here is imported where there is none.

Notation: the input x is (N, C, *positions) with P positions an image, a the channel gate (N, C), s the
spatial gate (N, P). A BatchNorm may come before them, z = BatchNorm(x), otherwise z = x. Where the channel
gate comes first, w = z a, computed as (x - pivot) by + plus with by and plus (N, C) in float32; m1 is the
maximum of w over the channels, and

    out = w s, or relu(w s + shortcut)
    g = d_out, or d_out [out > 0]                       the gradient of the product, and of the shortcut
    e = g s + [w = m1] q1 + q2                          the gradient of w; q1 = d_m1 / ties, q2 = d_mean / C
    d_x = by e + at_peak [x = extreme] + everywhere + slope (x - pivot)

Four rules hold everywhere:

    1. A maximum is found in one kernel and recognised in another, so its argument is computed by one function
       that no compiler may take apart: the bits are equal.
    2. Sums are float32, and those of a BatchNorm are of x - pivot, with a pivot near the mean: a large mean
       cancels nothing.
    3. No atomics: every sum has a fixed order, over the whole batch in a second kernel.
    4. What a kernel needs of (N, C) or (N, P) comes from memory in float32. Only x, shortcut, out and their
       gradients have the dtype of x.
"""
