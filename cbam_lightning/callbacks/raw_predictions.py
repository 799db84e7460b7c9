"""The callback that keeps what any module predicts as it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from cbam_lightning.callbacks.prediction_parts import PartWriter
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.plain import plain_copy

_NOTHING = object()


class _Batches:
    """What was predicted so far; None once there was something that cannot be kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[Any] | None = []

    def close(self) -> None:
        torch.save(self.found, self.path)


class RawPredictionWriter(PartWriter):
    """Write what ``predict_step`` returned into the run's ``predictions.pt``, for any module and data.

    ``torch.load`` returns a list with an item for each batch, in the order of the batches; those of several
    processes take turns. Tensors are on the CPU. Predictions that are not tensors, numbers, text, or lists,
    tuples and dictionaries of them are left out, all of them, and a line says so.
    """

    @property
    def path(self) -> Path:
        """The file that all parts become."""
        return self.run.raw_predictions

    def open(self, part: Path) -> _Batches:
        """Keep the batches in memory until they are written at once."""
        return _Batches(part)

    def write(self, file: _Batches, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Keep a batch."""
        if file.found is None:
            return
        try:
            file.found.append(plain_copy(outputs))
        except TypeError as error:
            name = self.run.raw_predictions.name
            warnings.warn(f"predict_step returns a {error}: {name} is left out.", stacklevel=2)
            file.found = None

    def join(self, parts: Sequence[Path]) -> None:
        """Put the batches of all processes in their order."""
        found = [torch.load(part, weights_only=True) for part in parts]
        if None in found:
            return
        rounds = zip_longest(*found, fillvalue=_NOTHING)
        batches = [batch for turn in rounds for batch in turn if batch is not _NOTHING]
        with atomic_write(self.run.raw_predictions) as out:
            torch.save(batches, out)
