"""The callback that writes detections as COCO's results file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.weights import atomic_write


class DetectionWriter(Callback):
    """Write what was found in every image while prediction goes on.

    The file is a JSON list with an object for each box, as COCO's evaluation reads it
    (https://cocodataset.org/#format-results): ``image_id``, ``category_id``, ``bbox`` as left, top, width and
    height in pixels of the image as stored, ``score``; and ``file_name`` besides.

    Args:
        run: The file is its ``detections.json``.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._file: Any = None

    def _part(self, rank: int) -> Path:
        return self.run.path / f".detections.{rank}.jsonl"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let all processes write into the directory of the first, whoever has started them."""
        self.run = RunDirectory(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        self._file = self._part(trainer.global_rank).open("w", encoding="utf-8")
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
        """Write the boxes of a batch, a line each."""
        for index, image_id, found in zip(
            batch.indices.tolist(), batch.image_ids.tolist(), outputs, strict=True
        ):
            name = self._data.sample_name("predict", index)
            for box in as_results(found, image_id, self._data.category_ids):
                self._file.write(json.dumps(box | {"file_name": name}) + "\n")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the parts of all processes, each of which saw its own images."""
        if self._file is not None:
            self._file.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        with atomic_write(self.run.detections) as out:
            out.write(b"[")
            for number, line in enumerate(_lines(parts)):
                out.write((",\n" if number else "\n").encode() + line.rstrip("\n").encode())
            out.write(b"\n]\n")
        for part in parts:
            part.unlink()


def as_results(found: Any, image_id: int, category_ids: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Return the boxes of an image as COCO's results.

    Args:
        found: ``boxes`` (D, 4) as left, top, right and bottom, ``labels`` and ``scores`` (D,).
        image_id: Of the image.
        category_ids: What the files of the data call the classes 1, 2, ...
    """
    for box, label, score in zip(*(found[k].tolist() for k in ("boxes", "labels", "scores")), strict=True):
        left, top, right, bottom = box
        yield {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 6),
        }


def _lines(parts: list[Path]) -> Iterator[str]:
    for part in parts:
        with part.open(encoding="utf-8") as file:
            yield from file
