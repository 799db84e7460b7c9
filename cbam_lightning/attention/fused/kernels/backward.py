"""The backward pass: 10 launches with both gates, 6 with the channel gate alone, 5 with the spatial one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cbam_lightning.attention.fused.kernels import channel_gate, channel_pools, product, spatial_gate
from cbam_lightning.attention.fused.kernels.layout import Kept, cdiv, padded
from cbam_lightning.attention.fused.kernels.program import Maps, Run, run_pass
from cbam_lightning.attention.fused.kernels.sequence import Parameters, Sequence
from cbam_lightning.attention.fused.norm import Norm, sum_over_processes


def gradients_in(whole: Tensor, parameters: Parameters) -> Parameters:
    """Return the gradients of the parameters as views of one tensor of ``gradient_size`` elements."""
    groups, offset = [], 0
    for group in parameters:
        views = []
        for parameter in group:
            views.append(whole.as_strided(parameter.shape, parameter.stride(), offset))
            offset += padded(parameter.numel())
        groups.append(views)
    return Parameters(*groups)


def gradient_size(parameters: Parameters) -> int:
    """Return the number of elements of the gradients of all parameters, each padded."""
    return sum(padded(parameter.numel()) for parameter in itertools.chain(*parameters))


class Gradients(NamedTuple):
    """What a backward pass returns.

    Attributes:
        x: The gradient of x.
        shortcut: The gradient of the shortcut; None if there is none.
        whole: The gradients of all parameters, in float32.
        parameters: The same, as views.
    """

    x: Tensor
    shortcut: Tensor | None
    whole: Tensor
    parameters: Parameters


def run_backward(
    sequence: Sequence,
    d_out: Tensor,
    x: Tensor,
    out: Tensor | None,
    kept: Tensor,
    parameters: Parameters,
    norm: Norm,
    spatial_norm: Norm,
    new: Callable[..., Tensor] = torch.empty,
) -> Gradients:
    """Return the gradients, given that of the output, x, the output if there is a ReLU, and what was kept.

    Those of the parameters are in one tensor that ``new`` makes.
    """
    d_x, d_shortcut, whole = run_pass(
        _backward, sequence, new, (x, d_out, out, kept), parameters, norm, spatial_norm
    )
    return Gradients(d_x, d_shortcut, whole, gradients_in(whole, parameters))


def _backward(
    run: Run, maps: Maps, parameters: Parameters, norm: Norm, spatial_norm: Norm
) -> tuple[Tensor, Tensor | None, Tensor]:
    x, d_out, out, kept = maps
    parts = Kept(*torch.split(kept, run.sequence.kept_sizes))
    backward = _Backward(run, d_out, x, out, parts, parameters)
    order = run.sequence.form.order
    if order in ("channel", "spatial-channel"):
        backward.through_channel_gate(norm)
    if order != "channel":
        backward.through_spatial_gate(spatial_norm)
    if order in ("channel-spatial", "parallel"):
        backward.through_channel_gate(norm)
    return backward.finish(norm)


class _Backward:
    """One backward pass: its tensors, and the launches in groups."""

    def __init__(
        self,
        run: Run,
        d_out: Tensor,
        x: Tensor,
        out: Tensor | None,
        kept: Kept,
        parameters: Parameters,
    ) -> None:
        sequence = run.sequence
        self.run, self.sequence, self.sizes, self.plan = run, sequence, sequence.sizes, sequence.plan
        self.start = run.start
        self.x, self.d_out, self.out, self.kept, self.parameters = x, d_out, out, kept, parameters
        # g, the gradient of the product, is d_out itself without a ReLU.
        self.g = d_out if out is None else run.like(x)
        # Not with the other workspaces, which it outlives.
        self.whole = run.kept(gradient_size(parameters), x)
        self.gradients = gradients_in(self.whole, parameters)
        n, c, p, r = self.sizes.n, self.sizes.c, self.sizes.p, self.sizes.r
        channel, spatial = r > 0, bool(parameters.spatial)
        kernel = 2 * math.prod(self.sizes.kernel)
        parts = max(
            3 * self.plan.splits * n * c * channel,
            max(2 * n * self.plan.tiles, kernel * n * self.plan.windows) * spatial,
        )  # of one kernel after the other
        pieces = [8 * n * c * channel, 4 * n * p * spatial, (1 + sequence.form.maximum) * n * r, parts]
        self.rows, self.points, self.d_hidden, self.parts = run.workspace(map(padded, pieces), x)

    def through_channel_gate(self, norm: Norm) -> None:
        """Go back from the gradient of the product to ``rows``, and to the channel gate's parameters."""
        sequence, sizes, plan, kept, start = self.sequence, self.sizes, self.plan, self.kept, self.start
        (weight, bias), (w1, _, w2, _) = self.parameters.norm_pointers, self.parameters.mlp
        d_weight, d_bias = self.gradients.norm_pointers
        over_channels = sequence.over_images(sizes.c, 64)
        start(
            channel_pools.row_sums_kernel, sequence.over_positions, self.x, self.g, self.d_out, self.out,
            kept.gate, kept.channels, kept.images, kept.maps, self.points, self.parts, sizes.n, sizes.p,
            plan.part, plan.splits,
        )  # fmt: skip
        start(
            channel_pools.rows_kernel, over_channels, self.parts, kept.channels, kept.images, weight, bias,
            self.rows, sizes.n, plan.splits,
        )  # fmt: skip
        start(
            channel_gate.hidden_gradient_kernel, sequence.over_images(sizes.r, 16), self.rows, w2,
            kept.hidden, self.d_hidden, sizes.n, sizes.r,
        )  # fmt: skip
        start(
            channel_gate.pools_gradient_kernel, over_channels, self.d_hidden, w1, weight, kept.channels,
            kept.images, self.rows, sizes.n, sizes.r, sizes.p,
        )  # fmt: skip
        start(
            channel_gate.parameters_kernel, (cdiv(sizes.c, 16), cdiv(sizes.r, 16)), self.rows, kept.images,
            kept.hidden, self.d_hidden, weight, bias, d_weight, d_bias, *self.gradients.mlp, sizes.n, sizes.r,
        )  # fmt: skip

    def through_spatial_gate(self, norm: Norm) -> None:
        """Go back from the gradient of the product to ``points``, and to the spatial gate's parameters."""
        sizes, plan, kept, start = self.sizes, self.plan, self.kept, self.start
        (weight, norm_weight, _), (d_weight, *sums) = self.parameters.spatial, self.gradients.spatial
        start(
            spatial_gate.points_kernel, (plan.tiles, sizes.n), self.x, self.g, self.d_out, self.out,
            kept.channels, kept.images, self.rows, kept.maps, kept.convolved, kept.gate, kept.spatial,
            self.points, self.parts, sizes.n, sizes.p, plan.tiles,
        )  # fmt: skip
        start(spatial_gate.spatial_sums_kernel, (1,), self.parts, *sums, sizes.n * plan.tiles)
        over_all = sum_over_processes(norm, *sums)
        programs = sizes.n * plan.windows
        start(
            spatial_gate.convolution_gradient_kernel, (programs,), kept.maps, weight, kept.convolved,
            kept.spatial, norm_weight, *over_all, self.points, self.parts, sizes.n, sizes.p, sizes.h, sizes.w,
            plan.windows, programs,
        )  # fmt: skip
        start(spatial_gate.weight_gradient_kernel, (weight.numel(),), self.parts, d_weight, programs)

    def finish(self, norm: Norm) -> tuple[Tensor, Tensor | None, Tensor]:
        """Write the gradient of x; return it, that of the shortcut, and those of the parameters."""
        d_x, sizes, kept = self.run.like(self.x), self.sizes, self.kept
        weight, sums = self.parameters.norm_pointers[0], self.gradients.norm_pointers
        if self.gradients.norm:
            sums = list(sum_over_processes(norm, *self.gradients.norm))
        self.start(
            product.input_gradient_kernel, self.sequence.over_map, self.x, self.g, d_x, weight, *sums,
            kept.channels, kept.images, kept.maps, kept.gate, self.points, self.rows, sizes.n, sizes.p,
        )  # fmt: skip
        return d_x, None if self.out is None else self.g, self.whole
