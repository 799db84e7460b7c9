"""Compilation of a recorded launch for a GPU that need not be there."""

import functools
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}
_DIVISIBLE = (("tt.divisibility", 16),)


class Compiled(NamedTuple):
    """What a kernel became.

    Attributes:
        stack: Bytes of local memory of a thread, where registers are spilled to.
        loads: Bytes of every load of a thread from the GPU's memory.
        stores: Bytes of every store.
        fused: How many multiply-adds take a difference as their first factor.
    """

    stack: int
    loads: list[int]
    stores: list[int]
    fused: int


def compile_launch(launch, architecture, folder):
    """Compile a launch for an architecture, 80 or 90, as Triton would at its first start.

    Args:
        launch: A ``recording.Launch``.
        architecture: The compute capability.
        folder: For the file that is taken apart.
    """
    signature, values, attributes = {}, {}, {}
    arguments = launch.arguments()
    for index, parameter in enumerate(launch.kernel.params):
        kind, divisible = _kind(parameter, arguments[parameter.name])
        signature[parameter.name] = kind
        if kind == "constexpr":
            values[parameter.name] = arguments[parameter.name]
        if divisible:
            attributes[(index,)] = _DIVISIBLE
    warps = arguments.get("num_warps", 4)
    frozen = (tuple(part.items()) for part in (signature, values, attributes))
    return _compile(launch.kernel, *frozen, warps, architecture, folder)


def _kind(parameter, value):
    """Return the type of an argument, and whether it is a multiple of 16 (a pointer: of 16 bytes)."""
    if parameter.is_constexpr or value is None:
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype], value.storage_offset() * value.itemsize % 16 == 0
    if isinstance(value, float):
        return "fp32", False
    assert parameter.do_not_specialize, parameter.name
    return "i32", False


@functools.cache
def _compile(kernel, signature, values, attributes, warps, architecture, folder):
    attributes = {index: [list(pair) for pair in pairs] for index, pairs in attributes}
    source = ASTSource(kernel, dict(signature), dict(values), attributes)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    file = folder / f"{made.hash}.cubin"
    file.write_bytes(made.asm["cubin"])
    usage = subprocess.run(
        [_TOOLS / "cuobjdump", "-res-usage", file], capture_output=True, text=True, check=True
    ).stdout
    stack, local = (int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("STACK", "LOCAL"))
    ptx = made.asm["ptx"]
    differences = set(re.findall(r"sub(?:\.rn)?\.f32\s+(%r\w+),", ptx))
    factors = re.findall(r"fma\.rn\.f32\s+%r\w+, (%r\w+), ", ptx)
    fused = sum(factor in differences for factor in factors)
    return Compiled(stack + local, _widths(ptx, "ld"), _widths(ptx, "st"), fused)


def _widths(ptx, operation):
    found = re.findall(rf"{operation}\.global(?:\.[a-z0-9_:]+)*?(?:\.v(\d))?\.b(\d+)", ptx)
    return [int(count or 1) * int(bits) // 8 for count, bits in found]
