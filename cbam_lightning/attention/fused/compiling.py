"""Functions that are compiled when they are first called, where there is a compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property, update_wrapper
from types import FunctionType
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Result = TypeVar("Result")

# The loops for one shape are up to a third faster than those for any shape, and take less than a second each
# to compile. A network has a handful of shapes; one that never stops to meet new ones gets loops for any.
MAX_SHAPES = 8


def stored(small: Tensor) -> Tensor:
    """Return ``small``, put into memory where this is compiled.

    Otherwise the compiler would compute it again for every element of the feature map that needs it.
    """
    if not torch.compiler.is_compiling():
        return small
    return small.as_strided(small.shape, small.stride())  # strides ask for memory


class Pass(Generic[Result]):
    """A function of a feature map and more, compiled for each of the first ``MAX_SHAPES`` shapes by itself.

    Further shapes share a version for any shape. Where compiling fails, the function runs as it is.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._of_shape: dict[Any, Callable[..., Result]] = {}
        self._compiles = True

    def __call__(self, x: Tensor, *args: Any) -> Result:
        """Return what the function returns."""
        if not self._compiles:
            return self._function(x, *args)
        try:
            return self._compiled(x)(x, *args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the base of all that the compiler raises
            result = self._function(x, *args)  # raises again what is not the compiler's fault
            self._compiles = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"torch.compile failed, so a pass of fused attention runs uncompiled and slowly: {reason} "
                "Mend the compiler, or set the attention's option implementation to 'reference'.",
                stacklevel=2,
            )
            return result

    def _compiled(self, x: Tensor) -> Callable[..., Result]:
        key = (x.shape, x.stride())
        if key not in self._of_shape:
            if len(self._of_shape) == MAX_SHAPES:
                return self._of_any_shape
            self._of_shape[key] = torch.compile(self._copy(), dynamic=False)
        return self._of_shape[key]

    @cached_property
    def _of_any_shape(self) -> Callable[..., Result]:
        return torch.compile(self._copy(), dynamic=True)

    def _copy(self) -> Callable[..., Result]:
        """Copy the function with its code, since torch limits how often the same code is compiled."""
        original = cast(FunctionType, self._function)
        copy = FunctionType(original.__code__.replace(), original.__globals__, original.__name__)
        return cast("Callable[..., Result]", copy)
