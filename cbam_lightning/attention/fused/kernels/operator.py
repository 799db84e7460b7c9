"""The kernels as an operator of torch, ``torch.ops.cbam_lightning.attend``, with its gradient.

A compiled network keeps the operator: ``torch.compile`` knows its shapes, and traces its gradient through the
autograd function. Autocast leaves its arguments as they are: maps in half precision, parameters in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from cbam_lightning.attention.fused.backward_check import check_backward
from cbam_lightning.attention.fused.kernels.backward import (
    Gradients,
    gradient_size,
    gradients_in,
    run_backward,
)
from cbam_lightning.attention.fused.kernels.forward import run_forward
from cbam_lightning.attention.fused.kernels.layout import in_layout_of, in_one_layout, kept_sizes, sizes_of
from cbam_lightning.attention.fused.kernels.sequence import Form, Parameters, Sequence, find_sequence
from cbam_lightning.attention.fused.norm import Norm

# Outputs of an operator are defined everywhere, also between the parts that kernels write.
_DEFINED = torch.zeros

_library = torch.library.Library("cbam_lightning", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "attend(Tensor x, Tensor? shortcut, Tensor[] norm, Tensor[] mlp, Tensor[] spatial, "
    "Tensor(a!)[] norm_statistics, Tensor(b!)[] spatial_statistics, str order, bool maximum, float factor, "
    "str norm_mode, float norm_eps, float norm_momentum, bool norm_synchronised, "
    "str spatial_mode, float spatial_eps, float spatial_momentum, bool spatial_synchronised) "
    "-> (Tensor, Tensor)"
)
_library.define(  # type: ignore[no-untyped-call]
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
    x = in_one_layout(x)
    call = _Call(order, maximum, factor, norm or Norm([]), spatial_norm, torch.compiler.is_compiling())
    groups = [[_as_float32(parameter) for parameter in group] for group in parameters]
    shortcut = None if shortcut is None else in_layout_of(x, shortcut)
    if call.traced:
        output: Tensor = torch.ops.cbam_lightning.attend.default(x, shortcut, *groups, *call.arguments)[0]
    else:
        output = _Attend.apply(call, tuple(map(len, groups)), x, shortcut, *itertools.chain(*groups))[0]
    return output


class _Call(NamedTuple):
    """What is not differentiated.

    Attributes:
        order: An ``Arrangement`` of CBAM.
        maximum: Whether the channel gate pools the maximum, besides the mean.
        factor: A gate is this times a sigmoid.
        norm: The BatchNorm before the gates.
        spatial_norm: That of the spatial gate.
        traced: Whether a graph is made, which has to contain the operator. It costs some 0.1 ms to call.
    """

    order: str
    maximum: bool
    factor: float
    norm: Norm
    spatial_norm: Norm
    traced: bool = True

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Arguments of the operator after the parameters."""
        norm, spatial_norm = self.norm, self.spatial_norm
        return norm.statistics, spatial_norm.statistics, *self[:3], *norm[1:], *spatial_norm[1:]

    @property
    def backward_arguments(self) -> tuple[Any, ...]:
        """Arguments of the operator's gradient after the parameters."""
        norms = ((norm.mode, norm.synchronised) for norm in (self.norm, self.spatial_norm))
        return *self[:3], *itertools.chain(*norms)

    def find_sequence(self, x: Tensor, parameters: Parameters, shortcut: Tensor | None) -> Sequence:
        """Return the launches."""
        form = Form(self.order, self.maximum, self.factor, bool(parameters.norm), shortcut is not None)
        return find_sequence(form, sizes_of(x, parameters.mlp, parameters.spatial))


class _Attend(Function):
    """The kernels and their gradient. Of the size of x, x itself and with a ReLU the output are saved."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, groups: tuple[int, ...], x: Tensor, shortcut: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        parameters = _grouped(tensors, groups)
        if call.traced:
            with torch._C._AutoDispatchBelowAutograd():
                out, kept = torch.ops.cbam_lightning.attend.default(x, shortcut, *parameters, *call.arguments)
        else:
            ctx.sequence = call.find_sequence(x, parameters, shortcut)
            out, kept = run_forward(ctx.sequence, x, shortcut, parameters, call.norm, call.spatial_norm)
        ctx.save_for_backward(x, None if shortcut is None else out, kept, *tensors)
        ctx.call, ctx.groups = call, groups
        ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        check_backward(gradients[0])
        x, out, kept, *tensors = ctx.saved_tensors
        call, parameters = ctx.call, _grouped(tensors, ctx.groups)
        saved = (in_layout_of(x, gradients[0]), x, out, kept)
        if call.traced:
            d_x, whole, *d_shortcut = torch.ops.cbam_lightning.attend_backward.default(
                *saved, *parameters, *call.backward_arguments
            )
            found = Gradients(
                d_x, d_shortcut[0] if d_shortcut else None, whole, gradients_in(whole, parameters)
            )
        else:
            found = run_backward(ctx.sequence, *saved, parameters, call.norm, call.spatial_norm)
        return None, None, found.x, found.shortcut, *itertools.chain(*found.parameters)


def _as_float32(parameter: Tensor) -> Tensor:
    # A weight in channels-last memory stays there, and its gradient as well: copies would be two launches.
    return in_one_layout(parameter if parameter.dtype == torch.float32 else parameter.float())


def _grouped(parameters: Iterable[Tensor], groups: tuple[int, ...]) -> Parameters:
    rest = iter(parameters)
    return Parameters(*(list(itertools.islice(rest, count)) for count in groups))


# The arguments of ``attend`` and ``attend_backward`` after the parameters, see their schemas.


def _forward_call(norm_statistics: list[Tensor], spatial_statistics: list[Tensor], *rest: Any) -> _Call:
    norms = Norm(norm_statistics, *rest[3:7]), Norm(spatial_statistics, *rest[7:])
    order, maximum, factor = rest[:3]
    return _Call(order, maximum, factor, *norms)


def _backward_call(*rest: Any) -> _Call:
    order, maximum, factor = rest[:3]
    norm, spatial_norm = (Norm([], mode, synchronised=over_all) for mode, over_all in (rest[3:5], rest[5:]))
    return _Call(order, maximum, factor, norm, spatial_norm)


def _attend_with_gradient(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    groups = (len(norm), len(mlp), len(spatial))
    call = _forward_call(*rest)
    outputs: tuple[Tensor, Tensor] = _Attend.apply(call, groups, x, shortcut, *norm, *mlp, *spatial)
    return outputs


def _attend(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    call, parameters = _forward_call(*rest), Parameters(norm, mlp, spatial)
    sequence = call.find_sequence(x, parameters, shortcut)
    return run_forward(sequence, x, shortcut, parameters, call.norm, call.spatial_norm, _DEFINED)


def _attend_backward(
    d_out: Tensor,
    x: Tensor,
    out: Tensor | None,
    kept: Tensor,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    call, parameters = _backward_call(*rest), Parameters(norm, mlp, spatial)
    sequence = call.find_sequence(x, parameters, out)
    found = run_backward(sequence, d_out, x, out, kept, parameters, call.norm, call.spatial_norm, _DEFINED)
    return [found.x, found.whole] + ([] if found.shortcut is None else [found.shortcut])


def _fake_attend(
    x: Tensor,
    shortcut: Tensor | None,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    size = sum(kept_sizes(sizes_of(x, mlp, spatial), bool(norm), _forward_call(*rest).maximum))
    return torch.empty_like(x), x.new_empty(size, dtype=torch.float32)


def _fake_attend_backward(
    d_out: Tensor,
    x: Tensor,
    out: Tensor | None,
    kept: Tensor,
    norm: list[Tensor],
    mlp: list[Tensor],
    spatial: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    whole = x.new_empty(gradient_size(Parameters(norm, mlp, spatial)), dtype=torch.float32)
    return [torch.empty_like(x), whole] + ([] if out is None else [torch.empty_like(x)])


_library.impl("attend", _attend, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attend", _attend_with_gradient, "Autograd")  # type: ignore[no-untyped-call]
_library.impl("attend_backward", _attend_backward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("cbam_lightning::attend", _fake_attend, lib=_library)
torch.library.register_fake("cbam_lightning::attend_backward", _fake_attend_backward, lib=_library)
