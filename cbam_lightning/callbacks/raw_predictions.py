"""The callback that writes what any module predicts as it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from cbam_lightning.callbacks.predictions import PredictionWriter
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.plain import plain_copy

_NOTHING = object()


class _Batches:
    """The predictions so far; ``None`` once there was one that cannot be saved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[Any] | None = []

    def close(self) -> None:
        torch.save(self.batches, self.path)


class RawPredictions(PredictionWriter):
    """Write what ``predict_step`` returned to the run's ``predictions.pt``, for any module and data.

    ``torch.load`` returns a list with one item per batch, in the order of the batches; those of several
    processes alternate. Tensors are on the CPU. If any prediction is not a tensor, a number, text, or a list,
    tuple or dictionary of them, no file is written, and a warning says so.
    """

    file_name = "predictions.pt"

    def open(self, part: Path) -> _Batches:
        """Keep the batches in memory until they are written at once."""
        return _Batches(part)

    def write(self, file: _Batches, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Keep a batch."""
        if file.batches is None:
            return
        try:
            file.batches.append(plain_copy(outputs))
        except TypeError as error:
            warnings.warn(f"predict_step returns a {error}: {self.path.name} is left out.", stacklevel=2)
            file.batches = None

    def join(self, parts: Sequence[Path]) -> None:
        """Put the batches of all processes in their order."""
        processes = [torch.load(part, weights_only=True) for part in parts]
        if None in processes:
            return
        rounds = zip_longest(*processes, fillvalue=_NOTHING)
        batches = [batch for turn in rounds for batch in turn if batch is not _NOTHING]
        with atomic_write(self.path) as out:
            torch.save(batches, out)
