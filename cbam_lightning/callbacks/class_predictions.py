"""The callback that writes predictions as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning import LightningModule

from cbam_lightning.callbacks.prediction_parts import PartWriter


def class_names(module: LightningModule) -> tuple[str, ...]:
    """Return the names of a classifier's classes, or their numbers where it knows none."""
    names = module.hparams.get("class_names") or range(module.hparams["num_classes"])
    return tuple(str(name) for name in names)


class PredictionWriter(PartWriter):
    """Write file, class and probability of every image into the run's ``predictions.csv``."""

    @property
    def path(self) -> Path:
        """The file that all parts become."""
        return self.run.predictions

    def write(self, file: TextIO, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Write the rows of a batch of probabilities (N, K)."""
        names = class_names(pl_module)
        probabilities, classes = outputs.max(1)
        found = zip(batch.indices.tolist(), classes.tolist(), probabilities.tolist(), strict=True)
        rows = [[self.name_of(index), names[label], f"{p:.6f}"] for index, label, p in found]
        csv.writer(file).writerows(rows)

    def join(self, parts: Sequence[Path]) -> None:
        """Put the rows of all parts below the headings."""
        with self.run.predictions.open("w", newline="", encoding="utf-8") as out:
            out.write("file,class,probability\n")
            for part in parts:
                out.write(part.read_text(encoding="utf-8"))
