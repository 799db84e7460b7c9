"""Functions that are compiled when they are first called, where there is a compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")


class Pass(Generic[Result]):
    """A function that is compiled at its first call, and runs as it is where compiling fails."""

    def __init__(self, function: Callable[..., Result]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._compiles = True

    @cached_property
    def _compiled(self) -> Callable[..., Result]:
        return torch.compile(self._function, dynamic=True)

    def __call__(self, *args: Any) -> Result:
        """Return what the function returns."""
        if not self._compiles:
            return self._function(*args)
        try:
            return self._compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the base of all that the compiler raises
            result = self._function(*args)  # raises again what is not the compiler's fault
            self._compiles = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"torch.compile failed, so a pass of fused attention runs uncompiled and slowly: {reason} "
                "Mend the compiler, or set the attention's option implementation to 'reference'.",
                stacklevel=2,
            )
            return result
