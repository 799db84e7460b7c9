"""The kernels as an operator of torch, ``torch.ops.cbam_lightning.attend``, with its gradient.

A compiled network keeps the operator: ``torch.compile`` knows its shapes, and traces its gradient through the
autograd function. Autocast leaves its arguments as they are: maps in half precision, parameters in float32.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from cbam_lightning.attention.fused.backward_check import check_backward
from cbam_lightning.attention.fused.kernels.backward import Gradients, run_backward
from cbam_lightning.attention.fused.kernels.forward import run_forward
from cbam_lightning.attention.fused.kernels.layout import in_layout_of, in_one_layout, kept_sizes, sizes_of
from cbam_lightning.attention.fused.kernels.norm import Norm
from cbam_lightning.attention.fused.kernels.sequence import Form, Parameters, find_sequence

_library = torch.library.Library("cbam_lightning", "DEF")
_library.define(
    "attend(Tensor x, Tensor? shortcut, Tensor[] norm, Tensor[] mlp, Tensor[] spatial, "
    "Tensor(a!)[] norm_statistics, Tensor(b!)[] spatial_statistics, str order, bool maximum, float factor, "
    "str norm_mode, float norm_eps, float norm_momentum, bool norm_synchronised, "
    "str spatial_mode, float spatial_eps, float spatial_momentum, bool spatial_synchronised) "
    "-> (Tensor, Tensor)"
)
_library.define(
    "attend_backward(Tensor d_out, Tensor x, Tensor? out, Tensor kept, Tensor[] norm, Tensor[] mlp, "
    "Tensor[] spatial, str order, bool maximum, float factor, str norm_mode, bool norm_synchronised, "
    "str spatial_mode, bool spatial_synchronised) -> Tensor[]"
)


def attend(
    x: Tensor,
    order: str,
    parameters: Parameters,
    spatial_norm: Norm,
    *,
    maximum: bool,
    factor: float,
    norm: Norm | None = None,
    shortcut: Tensor | None = None,
) -> Tensor:
    """Return ``x`` times its gates, or with a BatchNorm and a shortcut ``relu(attend(norm(x)) + shortcut)``.

    Args:
        x: (N, C, *positions) in float32, bfloat16 or float16. With a spatial gate, one or two dimensions.
        order: An ``Arrangement`` of CBAM; with a BatchNorm ``channel-spatial`` or ``channel``.
        parameters: The parameters.
        spatial_norm: The BatchNorm of the spatial gate.
        maximum: Whether the channel gate pools the maximum, besides the mean.
        factor: A gate is this times a sigmoid.
        norm: The BatchNorm before the gates.
        shortcut: Has the shape and the dtype of ``x``.

    Returns:
        A tensor like ``x``.
    """
    norm = norm or Norm([])
    x = in_one_layout(x)
    output: Tensor = torch.ops.cbam_lightning.attend.default(
        x,
        None if shortcut is None else in_layout_of(x, shortcut),
        *([parameter.float().contiguous() for parameter in group] for group in parameters),
        norm.statistics,
        spatial_norm.statistics,
        order,
        maximum,
        factor,
        *norm[1:],
        *spatial_norm[1:],
    )[0]
    return output


def _run_forward(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    norm_statistics: list[Tensor],
    spatial_statistics: list[Tensor],
    order: str,
    maximum: bool,
    factor: float,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    form = Form(order, maximum, factor, bool(norm), shortcut is not None)
    sequence = find_sequence(form, sizes_of(x, mlp, spatial))
    norms = Norm(norm_statistics, *options[:4]), Norm(spatial_statistics, *options[4:])
    return run_forward(sequence, x, shortcut, Parameters(norm, mlp, spatial), *norms)


def _run_backward(
    d_out: Tensor,
    x: Tensor,
    out: Tensor | None,
    kept: Tensor,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    order: str,
    maximum: bool,
    factor: float,
    *options: Any,
) -> list[Tensor]:
    form = Form(order, maximum, factor, bool(norm), out is not None)
    sequence = find_sequence(form, sizes_of(x, mlp, spatial))
    norms = (Norm([], mode, synchronised=over_all) for mode, over_all in (options[:2], options[2:]))
    return run_backward(sequence, d_out, x, out, kept, Parameters(norm, mlp, spatial), *norms)


class _Attend(Function):
    """The operator and its gradient. Of the size of x, x itself and with a ReLU the output are saved."""

    @staticmethod
    def forward(
        ctx: Any, groups: tuple[int, ...], options: tuple[Any, ...], *tensors: Any
    ) -> tuple[Tensor, Tensor]:
        x, shortcut, *parameters = tensors
        with torch._C._AutoDispatchBelowAutograd():
            out, kept = torch.ops.cbam_lightning.attend.default(
                x, shortcut, *_grouped(parameters, groups), *options
            )
        ctx.save_for_backward(x, None if shortcut is None else out, kept, *parameters)
        ctx.groups, ctx.options = groups, options
        ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_backward(gradients[0])
        x, out, kept, *parameters = ctx.saved_tensors
        _, _, order, maximum, factor, norm_mode, _, _, norm_sync, spatial_mode, _, _, spatial_sync = (
            ctx.options
        )
        groups = _grouped(parameters, ctx.groups)
        d_x, whole, *d_shortcut = torch.ops.cbam_lightning.attend_backward.default(
            in_layout_of(x, gradients[0]), x, out, kept, *groups, order, maximum, factor, norm_mode,
            norm_sync, spatial_mode, spatial_sync,
        )  # fmt: skip
        d_parameters = itertools.chain(*Gradients(Parameters(*groups), whole).split())
        return None, None, d_x, d_shortcut[0] if d_shortcut else None, *d_parameters


def _attend_with_gradient(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *options: Any,
) -> tuple[Tensor, Tensor]:
    groups = (len(norm), len(mlp), len(spatial))
    outputs: tuple[Tensor, Tensor] = _Attend.apply(groups, options, x, shortcut, *norm, *mlp, *spatial)
    return outputs


def _grouped(parameters: list[Tensor], groups: tuple[int, ...]) -> list[list[Tensor]]:
    rest = iter(parameters)
    return [list(itertools.islice(rest, count)) for count in groups]


def _fake_forward(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    maximum = rest[3]
    size = sum(kept_sizes(sizes_of(x, mlp, spatial), bool(norm), maximum))
    return torch.empty_like(x), x.new_empty(size, dtype=torch.float32)


def _fake_backward(
    d_out: Tensor,
    x: Tensor,
    out: Tensor | None,
    kept: Tensor,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    whole = Gradients(Parameters(norm, mlp, spatial)).whole
    return [torch.empty_like(x), whole] + ([] if out is None else [torch.empty_like(x)])


_library.impl("attend", _run_forward, "CompositeExplicitAutograd")
_library.impl("attend", _attend_with_gradient, "Autograd")
_library.impl("attend_backward", _run_backward, "CompositeExplicitAutograd")
torch.library.register_fake("cbam_lightning::attend", _fake_forward, lib=_library)
torch.library.register_fake("cbam_lightning::attend_backward", _fake_backward, lib=_library)
