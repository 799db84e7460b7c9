"""Which axes of a tensor are channels: what an operation does with the axes of its operands.

A convolution returns its channels on axis 1, a linear layer on the last axis, and most other operations leave
them where they are. So the layout of any feature map follows from the operations that computed it:
(N, C, H, W), (N, H, W, C) as in Swin, or tokens, (N, L, C), as in a ViT.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

Axes = frozenset[int]

NONE: Axes = frozenset()

# By name, since some of these operators exist only on certain devices.
CONVOLUTIONS = frozenset({"convolution", "convolution_overrideable", "_convolution", "mkldnn_convolution"})
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "_addmm_activation"})
_NORMS = ("batch_norm", "group_norm", "instance_norm")  # in the names of all their variants
_PERMUTATIONS = frozenset({"permute", "transpose", "t", "swapaxes", "numpy_T", "mT"})


def channel_axes(
    name: str,
    arguments: Sequence[Any],
    operands: Sequence[tuple[tuple[int, ...], Axes]],
    shape: tuple[int, ...],
) -> Axes:
    """Return the channel axes of an operation's result; none if they are not known.

    There are several where an operation split the channels into groups.

    Args:
        name: Name of the operator, as in ``torch.ops.aten``.
        arguments: All of its positional arguments.
        operands: Shape and channel axes of the arguments that depend on the network's input.
        shape: Shape of the result.
    """
    last = frozenset({len(shape) - 1})
    if name in CONVOLUTIONS:
        return frozenset({1})
    if name in PRODUCTS:
        return _of_product(operands, last)
    given, axes = min(operands, key=lambda operand: not operand[1] or len(operand[0]) != len(shape))
    if not axes:
        return _of_norm(name, arguments, last)
    if name in _PERMUTATIONS:
        return _permuted(name, arguments, axes, len(shape))
    if name in ("select", "unbind"):
        return _without(arguments[1] % len(given) if len(arguments) > 1 else 0, axes)
    if given == shape or (len(given) == len(shape) and prod(given) != prod(shape)):
        return axes  # elementwise, pooled, resized, cut or joined
    return _reshaped(given, axes, shape)


def _of_product(operands: Sequence[tuple[tuple[int, ...], Axes]], last: Axes) -> Axes:
    if len(operands) > 1:
        return NONE  # attention between positions, and the like
    given, axes = operands[0]
    mixes_positions = axes and len(given) - 1 not in axes
    return axes if mixes_positions else last


def _of_norm(name: str, arguments: Sequence[Any], last: Axes) -> Axes:
    if name == "native_layer_norm" and len(arguments[1]) == 1:
        return last
    return frozenset({1}) if any(norm in name for norm in _NORMS) else NONE


def _permuted(name: str, arguments: Sequence[Any], axes: Axes, rank: int) -> Axes:
    order = list(range(rank))
    if name == "permute":
        order = [axis % rank for axis in arguments[1]]
    elif rank > 1:
        first, second = arguments[1:3] if len(arguments) > 2 else (-2, -1)
        order[first], order[second] = order[second], order[first]
    return frozenset(new for new, old in enumerate(order) if old in axes)


def _without(axis: int, axes: Axes) -> Axes:
    return frozenset(a - (a > axis) for a in axes if a != axis)


def _reshaped(given: tuple[int, ...], axes: Axes, shape: tuple[int, ...]) -> Axes:
    """Follow the channels through a reshape, which keeps the order of the elements.

    An axis counts the elements in blocks: from the product of the sizes before it to this product times its
    own size. A new axis holds channels if its interval lies in those of the old channel axes; none does if
    one holds channels and something else.
    """
    if prod(given) != prod(shape):
        return NONE
    channels = _joined([_interval(given, axis) for axis in sorted(axes)])
    found = set[int]()
    for axis, size in enumerate(shape):
        start, end = _interval(shape, axis)
        if size > 1 and any(low < end and start < high for low, high in channels):
            if not any(low <= start and end <= high for low, high in channels):
                return NONE
            found.add(axis)
    return frozenset(found)


def _interval(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    return prod(shape[:axis]), prod(shape[: axis + 1])


def _joined(intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in intervals:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined
