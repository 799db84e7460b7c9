"""Which of two implementations of the same function runs."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError

Implementation = Literal["auto", "reference", "fused"]

# Below, a short run is over before it has made up for the compiler: "What attention costs" in
# experiments/README.md.
MIN_ELEMENTS = 2**20


def check_implementation(given: str) -> None:
    """Raise a ``UsageError`` unless ``given`` is an ``Implementation``."""
    check_choice("implementation", given, get_args(Implementation))


def runs_fused(module: nn.Module, implementation: str, x: Tensor) -> bool:
    """Tell whether ``module``, which has a fused form, uses it for ``x``.

    Never while a graph of the module is taken, by ``torch.compile``, ``torch.export``, ``torch.jit.trace`` or
    the ONNX exporter, nor on the meta device: those want the plain operations. Otherwise ``reference`` and
    ``fused`` mean what they say, and ``auto`` is fused where it pays: in training, with gradients, on a
    feature map of at least ``MIN_ELEMENTS`` elements, where ``torch.compile`` has what it needs.
    """
    if implementation == "reference" or x.device.type == "meta" or _is_taken_as_graph():
        return False
    if implementation == "fused":
        return True
    trains = module.training and torch.is_grad_enabled()
    return trains and x.numel() >= MIN_ELEMENTS and has_compiler(x.device.type)


def choose_compiled(compiled: bool | None, device: torch.device) -> bool:
    """Decide whether what ``torch.compile`` makes takes part in a measurement.

    Args:
        compiled: What the user wants; None for whatever is possible.
        device: Where it would run.

    Raises:
        UsageError: It is wanted, and not possible.
    """
    possible = has_compiler(device.type)
    if compiled and not possible:
        needed = "a C++ compiler (g++, or what CXX names)" if device.type == "cpu" else "Triton"
        message = f"torch.compile needs {needed}, which is not installed; install it, or leave compiled out."
        raise UsageError(message)
    return possible if compiled is None else compiled


def _is_taken_as_graph() -> bool:
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.compiler.is_compiling() or tracing or torch.onnx.is_in_onnx_export()


@functools.cache
def has_compiler(device_type: str) -> bool:
    """Tell whether ``torch.compile`` is on and has what it needs: a C++ compiler on a CPU, else Triton."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":  # torch's own switch
        return False
    if device_type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))
    return importlib.util.find_spec("triton") is not None
