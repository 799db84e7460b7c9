"""A number on its way from a device to the processor, which need not wait for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Reading:
    """Copies a number to the processor behind the work that computes it; ``float`` waits until it is there.

    On CUDA the copy goes to pinned memory, without which it would not be asynchronous. A number on another
    device is read when it is asked for.

    Args:
        number: A tensor with one element, which nothing changes any more.
    """

    def __init__(self, number: Tensor) -> None:
        # asynchronously, torch copies from CUDA into pinned memory
        self._number = number.detach().to("cpu", non_blocking=True) if number.is_cuda else number.detach()
        self._arrival: Any = None
        if number.is_cuda:
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record(torch.cuda.current_stream(number.device))

    @property
    def is_here(self) -> bool:
        """Whether ``float`` does not wait."""
        return self._arrival is None or bool(self._arrival.query())

    def __float__(self) -> float:
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._number)
