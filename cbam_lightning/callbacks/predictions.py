"""Base class of the callbacks that write predictions: one part per process, joined at the end."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cbam_lightning.runs.directory import RunDirectory


class PredictionWriter(Callback, ABC):
    """Write predictions while they are made.

    Args:
        run: Where to write.

    Attributes:
        file_name: Name of the file in the run's directory.
        data: The data module whose images are predicted, once prediction starts.
    """

    file_name: str

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    @property
    def path(self) -> Path:
        """The file that all parts become."""
        return self.run.path / self.file_name

    def open(self, part: Path) -> Any:
        """Return the object that ``write`` gets and that is closed at the end: a text file."""
        # names of files may be no UTF-8: such a byte is written as \udc80 to \udcff
        return part.open("w", newline="", encoding="utf-8", errors="backslashreplace")

    @abstractmethod
    def write(self, file: Any, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Write the predictions of a batch to this process's part; ``name_of`` names its images."""

    @abstractmethod
    def join(self, parts: Sequence[Path]) -> None:
        """Make one file of the parts of all processes, in order of rank."""

    def name_of(self, index: int) -> str:
        """Return the name of an image by its position, as in ``Batch.indices``.

        Images of a data module without names are numbered, in the order in which Lightning distributes them
        to the processes.
        """
        if hasattr(self.data, "sample_name"):
            name: str = self.data.sample_name("predict", index)
            return name
        return f"predict/{next(self._numbers):05d}"

    def _part(self, rank: int) -> Path:
        return self.run.path / f".{type(self).__name__}.{rank}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let all processes write into the directory of the first."""
        self.run = RunDirectory(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        self._numbers = itertools.count(trainer.global_rank, trainer.world_size)
        self.run.path.mkdir(parents=True, exist_ok=True)
        self._file = self.open(self._part(trainer.global_rank))
        self.data: Any = getattr(trainer, "datamodule")  # noqa: B009 - set by Lightning, unknown to its types

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Write a batch."""
        self.write(self._file, outputs, batch, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the parts of all processes."""
        self._file.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            parts = [self._part(rank) for rank in range(trainer.world_size)]
            self.join(parts)
            for part in parts:
                part.unlink()
