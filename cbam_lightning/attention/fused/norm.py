"""What a BatchNorm has besides its weight and bias, and its sums over all processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Norm(NamedTuple):
    """State and options of a BatchNorm.

    Attributes:
        statistics: Running mean, running variance and number of batches; empty without running statistics.
        mode: ``none``: there is no BatchNorm. ``running``: it normalises with the running statistics.
            ``batch``: with those of the batch. ``track``: likewise, and it moves the running ones.
        eps: Added to the variance.
        momentum: Rate at which the running statistics move; below 0, they are plain averages.
        synchronised: Whether the batch is that of all processes.
    """

    statistics: list[Tensor]
    mode: str = "none"
    eps: float = 0.0
    momentum: float = 0.0
    synchronised: bool = False

    @property
    def pointers(self) -> tuple[Tensor | None, ...]:
        """Running mean, running variance and number of batches, or None for each."""
        return tuple(self.statistics) or (None, None, None)

    @property
    def constants(self) -> dict[str, bool]:
        """Options that a kernel is compiled for."""
        return {"BATCH": self.mode in ("batch", "track"), "TRACK": self.mode == "track"}

    @property
    def over_processes(self) -> bool:
        """Whether sums go through an all-reduce."""
        return self.synchronised and self.mode in ("batch", "track")


def sum_over_processes(norm: Norm, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sums, for a synchronised BatchNorm those of all processes, in tensors of their own."""
    if not norm.over_processes:
        return first, second
    both = torch.stack((first, second))
    dist.all_reduce(both)
    return both[0], both[1]
