"""Whether Triton works on a device: it needs a GPU that it knows, and a C compiler for the way to it."""

from __future__ import annotations

import warnings

import torch

from cbam_lightning.attention.fused.kernels.elements import ones_kernel

_WORKS: dict[torch.device, bool] = {}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def works_on(device: torch.device) -> bool:
    """Return whether a kernel can be started on a device; if not, say once what the reason is."""
    if device not in _WORKS:
        try:
            _start_on(device)
            _WORKS[device] = True
        except Exception as error:  # Triton raises those of compilers, drivers and processes
            _WORKS[device] = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"Triton does not work on {device}, so attention runs without kernels, slower: {reason}",
                stacklevel=2,
            )
    return _WORKS[device]


def _start_on(device: torch.device) -> None:
    to = torch.empty(16, device=device)
    with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
        ones_kernel[(1,)](to, BLOCK=16)
