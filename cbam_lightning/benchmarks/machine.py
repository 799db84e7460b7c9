"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import sys
from datetime import date
from pathlib import Path

import torch

from cbam_lightning import __version__
from cbam_lightning.errors import UsageError

# Named with their versions if they were imported, that is, if they took part.
_LIBRARIES = ("torchvision", "pytorch_lightning", "timm", "litdata", "PIL")


def this_machine() -> dict[str, str | int]:
    """Return processor, cores for this process, threads of torch, versions of what is loaded, and date."""
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
    """Return the device of a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: There is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind, colon, index = name.partition(":")
    counts = {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})
    if kind not in counts or (colon and not (index.isdecimal() and int(index) < counts[kind])):
        usable = ", ".join(f"{kind} (of which there is {count})" for kind, count in counts.items())
        message = f"device is {name!r}; usable here: {usable}. A number, as in cuda:0, counts from 0."
        raise UsageError(message)
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Let torch use this many threads, or as many as it likes if None.

    Raises:
        UsageError: A number below 1.
    """
    if threads is None:
        return
    if threads < 1:
        message = f"threads is {threads}; give a whole number of at least 1."
        raise UsageError(message)
    torch.set_num_threads(threads)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]
