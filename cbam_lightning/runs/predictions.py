"""The callback that writes predictions as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning import Callback, LightningModule, Trainer

from cbam_lightning.runs.directory import RunDirectory


def class_names(module: LightningModule) -> tuple[str, ...]:
    """Return the names of a classifier's classes, or their numbers where it knows none."""
    names = module.hparams.get("class_names") or range(module.hparams["num_classes"])
    return tuple(str(name) for name in names)


class PredictionWriter(Callback):
    """Write file, class and probability of every image while prediction goes on.

    Args:
        run: The file is its ``predictions.csv``.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._file: TextIO | None = None

    def _part(self, rank: int) -> Path:
        return self.run.path / f".predictions.{rank}.csv"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let all processes write into the directory of the first, whoever has started them."""
        self.run = RunDirectory(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        self._file = self._part(trainer.global_rank).open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._data: Any = getattr(trainer, "datamodule")  # noqa: B009 - set by Lightning, unknown to its types

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch."""
        names = class_names(pl_module)
        probabilities, classes = outputs.max(1)
        triples = zip(batch.indices.tolist(), classes.tolist(), probabilities.tolist(), strict=True)
        for index, label, probability in triples:
            name = self._data.sample_name("predict", index)
            self._rows.writerow([name, names[label], f"{probability:.6f}"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the parts of all processes, each of which saw its own images."""
        if self._file is not None:
            self._file.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        with self.run.predictions.open("w", encoding="utf-8") as out:
            out.write("file,class,probability\n")
            for part in parts:
                out.write(part.read_text(encoding="utf-8"))
        for part in parts:
            part.unlink()
