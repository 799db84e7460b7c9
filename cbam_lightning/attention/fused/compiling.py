"""Functions that are compiled at their first call, where a compiler is available."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Result = TypeVar("Result")

# Loops for one shape are up to a third faster than loops for any shape, and compile in less than a second. A
# network has a handful of shapes; one that keeps meeting new ones gets loops for any shape.
MAX_SHAPES = 8


def stored(small: Tensor) -> Tensor:
    """Return ``small``, written to memory in compiled code.

    Otherwise the compiler would recompute it for every element of the feature map that needs it.
    """
    if not torch.compiler.is_compiling():
        return small
    return small.as_strided(small.shape, small.stride())  # strides require memory


class Pass(Generic[Result]):
    """A function whose first argument is a feature map, compiled for each shape separately.

    After ``MAX_SHAPES`` shapes, further ones share a version for any shape. Where compilation fails, the
    function runs uncompiled.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._versions: dict[Any, Callable[..., Result]] = {}
        self._compiles = True

    def __call__(self, x: Tensor, *args: Any) -> Result:
        """Call the function."""
        if not self._compiles:
            return self._function(x, *args)
        try:
            return self._compiled(x)(x, *args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # base class of all compiler errors
            result = self._function(x, *args)  # raises again unless it was the compiler
            self._compiles = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"torch.compile failed, so a pass of fused attention runs uncompiled and slowly: {reason} "
                "Fix the compiler, or set the attention's option implementation to 'reference'.",
                stacklevel=2,
            )
            return result

    def _compiled(self, x: Tensor) -> Callable[..., Result]:
        key: Any = (x.shape, x.stride())
        if key not in self._versions and len(self._versions) >= MAX_SHAPES:
            key = None  # the version for any shape
        if key not in self._versions:
            self._versions[key] = torch.compile(self._copy(), dynamic=key is None)
        return self._versions[key]

    def _copy(self) -> Callable[..., Result]:
        """Copy the function with its code: torch limits how often it compiles the same code."""
        original = cast(FunctionType, self._function)
        copy = FunctionType(original.__code__.replace(), original.__globals__, original.__name__)
        return cast("Callable[..., Result]", copy)
