"""The callback that writes a classifier's predictions as CSV."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning import LightningModule

from cbam_lightning.callbacks.pictures import class_names
from cbam_lightning.callbacks.predictions import PredictionWriter


class ClassPredictions(PredictionWriter):
    """Write file, class and probability of every image to the run's ``predictions.csv``."""

    file_name = "predictions.csv"

    def write(self, file: TextIO, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Write the rows of a batch of probabilities (N, K)."""
        names = class_names(pl_module)
        columns = [values.tolist() for values in (batch.indices, *outputs.max(1))]
        for index, probability, label in zip(*columns, strict=True):
            csv.writer(file, lineterminator="\n").writerow(
                [self.name_of(index), names[label], f"{probability:.6f}"]
            )

    def join(self, parts: Sequence[Path]) -> None:
        """Put the rows of all parts below the headings."""
        with self.path.open("w", newline="", encoding="utf-8") as out:
            out.write("file,class,probability\n")
            for part in parts:
                with part.open(newline="", encoding="utf-8") as rows:  # a name may hold any line break
                    shutil.copyfileobj(rows, out)
