"""Positions of a feature map in one, two or three dimensions.

Feature maps are (N, C, *positions): (N, C, L), (N, C, H, W) or (N, C, D, H, W).
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from cbam_lightning.checks import is_whole
from cbam_lightning.errors import UsageError

Dims = Literal[1, 2, 3]

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[_BatchNorm]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_SHAPES = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


def axes(x: Tensor) -> tuple[int, ...]:
    """Return the position axes of ``x``, (N, C, *positions)."""
    return tuple(range(2, x.ndim))


def broadcast(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``values`` from (N, C) to (N, C, 1, …), which broadcasts over the positions of ``x``."""
    return values[(...,) + (None,) * (x.ndim - 2)]


def check_dims(dims: int) -> None:
    """Raise a ``UsageError`` unless ``dims`` is 1, 2 or 3."""
    if not is_whole(dims) or dims not in get_args(Dims):
        choices = ", ".join(f"{number} for {shape}" for number, shape in _SHAPES.items())
        raise UsageError(f"dims is {dims!r}; give the number of position dimensions: {choices}.")


def check_tensor(module: nn.Module, x: object) -> None:
    """Raise a ``UsageError`` unless ``x`` is a tensor of floating-point numbers."""
    name = type(module).__name__
    if isinstance(x, Proxy):
        raise UsageError(
            f"torch.fx cannot trace through {name}. Make it a leaf (Tracer.is_leaf_module, or leaf_modules "
            "where torchvision takes tracer_kwargs), or use torch.export.export."
        )
    if not isinstance(x, Tensor):
        raise UsageError(
            f"{name} takes a torch.Tensor (N, C, *positions), but was given {type(x).__name__}. Convert it "
            "first, for example an array with torch.from_numpy."
        )
    if not x.is_floating_point():
        how = "x.abs()" if x.is_complex() else "x.dequantize()" if x.is_quantized else "x.float()"
        raise UsageError(
            f"{name} takes floating-point numbers, but was given {x.dtype}. Convert them first, for example "
            f"with {how}."
        )


def check_feature_map(module: nn.Module, x: Tensor, dims: int | None = None) -> None:
    """Raise a ``UsageError`` unless ``x`` is a feature map.

    Args:
        module: The module that takes it.
        x: A tensor of floating-point numbers: gates are fractions, which whole numbers would cut to 0.
        dims: Number of its position dimensions. None: 1, 2 or 3.
    """
    check_tensor(module, x)
    given = x.ndim - 2
    if given == dims or (dims is None and given in _SHAPES):
        return
    allowed = _SHAPES[dims] if dims else " or ".join(_SHAPES.values())
    origin = hint = ""
    if dims and given in _SHAPES:
        origin, hint = f"was made with dims={dims} and ", f" Make it with dims={given}."
    name, shape = type(module).__name__, tuple(x.shape)
    raise UsageError(f"{name} {origin}takes {allowed}, but was given {shape}.{hint}")
