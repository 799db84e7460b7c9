"""The forward pass: 8 launches with both gates, 5 with the channel gate alone, 4 with the spatial one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from cbam_lightning.attention.fused.kernels import channel_gate, channel_pools, product, spatial_gate
from cbam_lightning.attention.fused.kernels.layout import Kept, cdiv
from cbam_lightning.attention.fused.kernels.program import Maps, Run, run_pass
from cbam_lightning.attention.fused.kernels.sequence import Parameters, Sequence
from cbam_lightning.attention.fused.norm import Norm

# Two programs for each multiprocessor of an H100: every one makes the sums over the windows again.
_GATE_PROGRAMS = 264


def run_forward(
    sequence: Sequence,
    x: Tensor,
    shortcut: Tensor | None,
    parameters: Parameters,
    norm: Norm,
    spatial_norm: Norm,
    new: Callable[..., Tensor] = torch.empty,
) -> tuple[Tensor, Tensor]:
    """Return the output and what is kept for the backward pass, in one tensor that ``new`` makes."""
    out, whole = run_pass(_forward, sequence, new, (x, shortcut), parameters, norm, spatial_norm)
    return out, whole


def _forward(
    run: Run, maps: Maps, parameters: Parameters, norm: Norm, spatial_norm: Norm
) -> tuple[Tensor, Tensor]:
    x, shortcut = maps
    sequence, sizes = run.sequence, run.sequence.sizes
    out, whole = run.like(x), run.kept(sum(sequence.kept_sizes), x)
    kept = Kept(*torch.split(whole, sequence.kept_sizes))
    _make_gates(run, x, kept, parameters, norm, spatial_norm)
    run.start(
        product.product_kernel, sequence.over_map, x, shortcut, out, kept.channels, kept.images, kept.gate,
        sizes.n, sizes.p,
    )  # fmt: skip
    return out, whole


def _make_gates(
    run: Run, x: Tensor, kept: Kept, parameters: Parameters, norm: Norm, spatial_norm: Norm
) -> None:
    order = run.sequence.form.order
    if order == "spatial-channel":
        _make_spatial_gate(run, x, kept, parameters.spatial, spatial_norm)
    if order != "spatial":
        _make_channel_gate(run, x, kept, parameters, norm)
    if order in ("channel-spatial", "parallel", "spatial"):
        _make_spatial_gate(run, x, kept, parameters.spatial, spatial_norm)


def _make_channel_gate(run: Run, x: Tensor, kept: Kept, parameters: Parameters, norm: Norm) -> None:
    sequence, sizes, plan, start = run.sequence, run.sequence.sizes, run.sequence.plan, run.start
    (weight, bias), (w1, b1, w2, b2) = parameters.norm_pointers, parameters.mlp
    mean, var, batches = norm.pointers
    (parts,) = run.workspace([3 * plan.splits * sizes.n * sizes.c], x)
    start(
        channel_pools.sums_kernel, sequence.over_positions, x, kept.gate, weight, mean, kept.channels, parts,
        sizes.n, sizes.p, plan.part, plan.splits, BATCH=norm.constants["BATCH"],
    )  # fmt: skip
    grid, totals = (cdiv(sizes.c, 16),), None
    if norm.over_processes:
        totals = torch.empty(2 * sizes.c + 1, dtype=torch.float64, device=x.device)
        start(channel_pools.totals_kernel, grid, parts, kept.channels, totals, sizes.n, sizes.p, plan.splits)
        dist.all_reduce(totals)
    start(
        channel_pools.statistics_kernel, grid, parts, weight, mean, var, batches, kept.channels, kept.images,
        totals, sizes.n, sizes.p, plan.splits, norm.eps, norm.momentum, SYNC=totals is not None,
        **norm.constants,
    )  # fmt: skip
    start(
        channel_gate.hidden_kernel, sequence.over_images(sizes.r, 16), kept.images, weight, bias, w1, b1,
        kept.hidden, sizes.n, sizes.r,
    )  # fmt: skip
    start(
        channel_gate.gate_kernel, sequence.over_images(sizes.c, 64), kept.hidden, w2, b2, weight, bias,
        batches, kept.channels, kept.images, sizes.n, sizes.r, TRACK=norm.constants["TRACK"],
    )  # fmt: skip


def _make_spatial_gate(run: Run, x: Tensor, kept: Kept, parameters: list[Tensor], norm: Norm) -> None:
    sizes, plan, start = run.sequence.sizes, run.sequence.plan, run.start
    weight, *norm_parameters = parameters
    programs = sizes.n * plan.windows
    (parts,) = run.workspace([2 * programs], x)
    start(
        spatial_gate.maps_kernel,
        (plan.tiles, sizes.n),
        x,
        kept.channels,
        kept.images,
        kept.maps,
        sizes.n,
        sizes.p,
    )
    start(
        spatial_gate.convolve_kernel, (programs,), kept.maps, weight, kept.convolved, parts, sizes.p, sizes.h,
        sizes.w, plan.windows, programs,
    )  # fmt: skip
    totals = None
    if norm.over_processes:
        totals = torch.empty(3, dtype=torch.float64, device=x.device)
        start(
            spatial_gate.spatial_totals_kernel, (1,), parts, totals, sizes.n, sizes.p, plan.windows, programs
        )
        dist.all_reduce(totals)
    grid = (max(1, min(_GATE_PROGRAMS, cdiv(sizes.n * sizes.p, 1024))),)
    start(
        spatial_gate.spatial_gate_kernel, grid, kept.convolved, parts, *norm_parameters, *norm.pointers,
        totals, kept.spatial, kept.gate, sizes.n, sizes.p, plan.windows, programs, norm.eps, norm.momentum,
        SYNC=totals is not None, **norm.constants,
    )  # fmt: skip
