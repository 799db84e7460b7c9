"""Networks that ``torch.compile`` makes, in which modes, and each on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cbam_lightning.attention.implementation import choose_compiled
from cbam_lightning.benchmarks.options import CompileMode
from cbam_lightning.errors import UsageError

# More networks than are measured together; torch's own limit, 8, is that of one network in several shapes.
_MOST_NETWORKS = 64


def choose_modes(modes: Sequence[CompileMode], device: torch.device) -> list[CompileMode]:
    """Return each mode once.

    Raises:
        UsageError: There is no compiler for the device, or it has no CUDA graphs.
    """
    if modes:
        choose_compiled(True, device)
    if "reduce-overhead" in modes and device.type != "cuda":
        raise UsageError(
            f"compile_mode is 'reduce-overhead', which takes CUDA graphs, and the device is {str(device)!r}; "
            "give --device cuda, or leave the mode out."
        )
    return list(dict.fromkeys(modes))


@contextmanager
def alone_compiled() -> Iterator[None]:
    """Let networks of one class be compiled, each for itself, with nothing left of earlier ones.

    They share the code of their class, for which torch keeps a few compiled forms, and then falls back to
    running it as it is.
    """
    from torch._dynamo import config  # seconds, for all that torch.compile needs

    torch.compiler.reset()
    with config.patch(cache_size_limit=_MOST_NETWORKS):
        yield
    torch.compiler.reset()
