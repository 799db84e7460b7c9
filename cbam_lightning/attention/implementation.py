"""Choice between the reference and the fused implementation of a module."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy

from cbam_lightning.attention import positions
from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError

Implementation = Literal["auto", "reference", "fused"]
Forward = Callable[[Tensor], Tensor]
Module = TypeVar("Module", bound=nn.Module)


class FusedForm(NamedTuple):
    """The fused forward passes of a module in its current state.

    Attributes:
        passes: Compiled passes over memory.
        kernels: Returns Triton kernels for an input, or None where they do not compute it.
    """

    passes: Forward
    kernels: Callable[[Tensor], Forward | None]


_Find = Callable[[Any], FusedForm | None]
_FUSED_FORMS: dict[type, _Find] = {}
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch
_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

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
        positions.check_tensor(self, x)
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
    find = _FUSED_FORMS.get(type(module))
    if find is None:
        return None
    in_kernels = x is not None and runs_kernels(module, x)
    if x is not None and not (in_kernels or runs_fused(module, x)):
        return None
    form = find(module)
    if form is None:
        return None
    kernels = form.kernels(x) if x is not None and in_kernels else None
    if kernels is not None:
        return kernels
    return form.passes if x is None or runs_fused(module, x) else None


def register_fused_form(kind: type) -> Callable[[_Find], _Find]:
    """Decorate the function that returns the fused forward passes of a module in its current state, or None.

    Args:
        kind: The class that it was derived for. A subclass may override anything, so it has no fused form.
    """

    def register(find: _Find) -> _Find:
        _FUSED_FORMS[kind] = find
        return find

    return register


def runs_kernels(module: Any, x: Tensor | Proxy) -> bool:
    """Return whether ``module`` uses Triton kernels for ``x``, if there are any that compute it.

    They run on GPUs, in training and in evaluation, eagerly and in compiled networks, for maps of any size in
    float32, bfloat16 and float16, unless the implementation is ``reference``.
    """
    return (
        module.implementation != "reference"
        and not isinstance(x, Proxy)
        and has_kernels(x.device.type)
        and x.dtype in _KERNEL_DTYPES
        and not wants_plain_operations(x)
    )


def runs_fused(module: Any, x: Tensor) -> bool:
    """Return whether ``module``, if it has a fused form, uses it for ``x``.

    ``reference`` and ``fused`` are taken literally. ``auto`` is fused where it pays: in training, with
    gradients, on feature maps of at least ``MIN_ELEMENTS`` elements, where ``torch.compile`` is available.
    Whatever the option says, the plain operations run where nothing else can; see ``needs_reference``.
    """
    if module.implementation == "reference" or needs_reference(x):
        return False
    if module.implementation == "fused":
        return True
    trains = module.training and torch.is_grad_enabled()
    return trains and x.numel() >= MIN_ELEMENTS and has_compiler(x.device.type)


def needs_reference(x: Tensor | Proxy) -> bool:
    """Return whether only the plain operations will do.

    That is so where only a graph or a shape is wanted: for ``torch.compile``, ``torch.export``,
    ``torch.jit.trace``, ``torch.fx`` and the ONNX exporter, and on the meta device. It is also so where the
    operations are transformed, see ``is_transformed``.
    """
    return torch.compiler.is_compiling() or wants_plain_operations(x)


def wants_plain_operations(x: Tensor | Proxy) -> bool:
    """Return the same as ``needs_reference``, but False for ``torch.compile``, which keeps an operator."""
    # Not is_exporting(), which torch 2.11 takes for true whatever it compiles.
    if torch.compiler._is_exporting_flag or isinstance(
        x, Proxy
    ):  # first: the rest asks what these do not know
        return True
    if torch.compiler.is_compiling():
        return x.device.type == "meta"
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return traced or torch.onnx.is_in_onnx_export() or x.device.type == "meta" or is_transformed()


def is_transformed() -> bool:
    """Return whether a transform of ``torch.func`` (``grad``, ``vmap``, …) or forward-mode AD is at work.

    Parameters may be what is transformed, so the input does not tell. ``torch.autograd.Function`` asks the
    first in the same way; ``torch.autograd.forward_ad`` counts its levels in the second.
    """
    in_func: bool = torch._C._are_functorch_transforms_active()
    return in_func or forward_ad._current_level >= 0


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


def has_kernels(device_type: str) -> bool:
    """Return whether Triton kernels run on a type of device: on GPUs, on CPUs in Triton's interpreter."""
    return _HAS_TRITON and (device_type == "cuda" or (device_type == "cpu" and _IS_INTERPRETED))


@functools.cache
def has_compiler(device_type: str) -> bool:
    """Return whether ``torch.compile`` is on and has its compiler: C++ on a CPU, Triton elsewhere."""
    if os.environ.get("TORCH_COMPILE_DISABLE") == "1":  # torch's own switch
        return False
    if device_type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))
    return _HAS_TRITON
