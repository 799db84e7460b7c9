"""The mean loss over a split, equal to the last bit on any number of devices."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

# A float32 has 24 bits: losses of 1/2 and more are kept exactly, smaller ones to 2^-25.
_UNITS = 2.0**24


class MeanLoss(Metric):
    """Mean of the losses of images.

    A sum of floating-point numbers depends on its order, and so on the batch size and the number of
    devices. Whole multiples of 2^-24 do not: up to 5e11 in all, they add up exactly.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    not_finite: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count", "not_finite"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor) -> None:
        """Add the losses (N,) of N images."""
        losses = losses.detach().float()
        finite = losses.isfinite()
        self.total += (losses.where(finite, 0.0) * _UNITS).round().long().sum()
        self.count += len(losses)
        self.not_finite += (~finite).sum()

    def compute(self) -> Tensor:
        """Return the mean, float32; NaN if any loss was not finite, or if there was none."""
        mean = self.total / self.count / _UNITS
        return mean.where(self.not_finite == 0, torch.nan)
