"""Choice between the reference and the fused implementation of a module."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError

Implementation = Literal["auto", "reference", "fused"]
Forward = Callable[[Tensor], Tensor]
Module = TypeVar("Module", bound=nn.Module)

# On smaller maps a short run ends before it has made up for the compilation: "What attention costs" in
# experiments/README.md.
MIN_ELEMENTS = 2**20


def check_implementation(implementation: str) -> None:
    """Raise a ``UsageError`` unless the argument is an ``Implementation``."""
    check_choice("implementation", implementation, get_args(Implementation))


def or_fused(forward: Callable[[Module, Tensor], Tensor]) -> Callable[[Module, Tensor], Tensor]:
    """Decorate the ``forward`` of a module: run its ``fused_form`` for the input instead, if there is one."""

    @functools.wraps(forward)
    def run(self: Module, x: Tensor) -> Tensor:
        fused = fused_form(self, x)
        return forward(self, x) if fused is None else fused(x)

    return run


def fused_form(module: nn.Module, x: Tensor | None = None) -> Forward | None:
    """Return the fused forward pass of ``module``, or None.

    Args:
        module: Has an attribute ``implementation``.
        x: Its input, (N, C, *positions), if the answer is for one call; see ``runs_fused``.

    Returns:
        A function of ``x``; None if there is no fused form, or if this call uses the reference.
    """
    if x is not None and not runs_fused(module, x):
        return None
    return find_fused_form(module)


@functools.singledispatch
def find_fused_form(module: object) -> Forward | None:
    """Return the fused forward pass of a module in its current state; ``fused/`` registers the classes."""
    return None


def runs_fused(module: Any, x: Tensor) -> bool:
    """Return whether ``module``, if it has a fused form, uses it for ``x``.

    ``reference`` and ``fused`` are taken literally. ``auto`` is fused where it pays: in training, with
    gradients, on feature maps of at least ``MIN_ELEMENTS`` elements, where ``torch.compile`` is available.
    Whatever the option says, graphs are made of the plain operations; see ``is_traced``.
    """
    if module.implementation == "reference" or is_traced(x):
        return False
    if module.implementation == "fused":
        return True
    trains = module.training and torch.is_grad_enabled()
    return trains and x.numel() >= MIN_ELEMENTS and has_compiler(x.device.type)


def is_traced(x: Tensor) -> bool:
    """Return whether only a graph or a shape is wanted.

    That is so for ``torch.compile``, ``torch.export``, ``torch.jit.trace`` and the ONNX exporter, and on the
    meta device.
    """
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    exported = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return traced or exported or x.device.type == "meta"


def choose_compiled(compiled: bool | None, device: torch.device) -> bool:
    """Decide whether a measurement includes what ``torch.compile`` makes.

    Args:
        compiled: What the user wants. None: include it where it is available.
        device: Where it would run.

    Raises:
        UsageError: It is wanted but not available.
    """
    available = has_compiler(device.type)
    if compiled and not available:
        needed = "a C++ compiler (g++, or the one that CXX names)" if device.type == "cpu" else "Triton"
        raise UsageError(f"torch.compile needs {needed}; install it, or leave compiled out.")
    return available if compiled is None else compiled


@functools.cache
def has_compiler(device_type: str) -> bool:
    """Return whether ``torch.compile`` is on and has its compiler: C++ on a CPU, Triton elsewhere."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":  # torch's own switch
        return False
    if device_type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))
    return importlib.util.find_spec("triton") is not None
