"""The machine that a benchmark runs on: its description, devices, threads and memory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from cbam_lightning import __version__
from cbam_lightning.benchmarks.options import MemoryFormat, Precision
from cbam_lightning.checks import check_positive
from cbam_lightning.errors import UsageError

LAYOUTS: dict[MemoryFormat, torch.memory_format] = {
    "channels_first": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
PRECISIONS: dict[Precision, torch.dtype] = {
    "32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Listed with their versions if they were imported, that is, if they took part.
_LIBRARIES = ("torchvision", "pytorch_lightning", "timm", "litdata", "PIL")


def this_machine() -> dict[str, str | int]:
    """Return processor, GPU, cores of this process, torch threads, versions of loaded libraries, and date."""
    loaded = {name: sys.modules[name] for name in _LIBRARIES if name in sys.modules}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": _processor(),
        **gpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: str(getattr(module, "__version__", "unknown")) for name, module in loaded.items()},
        "cbam_lightning": __version__,
        "date": date.today().isoformat(),
    }


def choose_device(name: str) -> torch.device:
    """Return the device with a name such as ``cpu``, ``cuda`` or ``cuda:1``, and make it the current one.

    Raises:
        UsageError: This machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind, colon, index = name.partition(":")
    counts = {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})
    if kind not in counts or (colon and not (index.isdecimal() and int(index) < counts[kind])):
        usable = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
        raise UsageError(f"device is {name!r}; usable here: {usable}. An index, as in cuda:0, counts from 0.")
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # which torch's events and profiler take
    return device


def set_threads(threads: int | None) -> None:
    """Set the number of torch threads. None: torch's default.

    Raises:
        UsageError: The number is below 1.
    """
    if threads is not None:
        check_positive("threads", threads)
        torch.set_num_threads(threads)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a forward pass has a precision."""
    return nullcontext() if precision == "32" else torch.autocast(device.type, PRECISIONS[precision])


def random_tensor(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return float32 values from the standard normal distribution.

    Raises:
        UsageError: They do not fit into the device's memory.
    """
    try:
        return torch.randn(shape, device=device)
    except (RuntimeError, TypeError) as error:  # TypeError: a number beyond 64 bits
        text = "x".join(map(str, shape))
        raise UsageError(
            f"a tensor of {text} does not fit into the memory of {device}; give smaller sizes."
        ) from error


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]
