"""The callback that writes detections as a COCO results file."""

from __future__ import annotations

import fileinput
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from pytorch_lightning import LightningModule

from cbam_lightning.callbacks.predictions import PredictionWriter
from cbam_lightning.files import atomic_write


class BoxPredictions(PredictionWriter):
    """Write the detections in every image to the run's ``detections.json``.

    The file is a JSON list with one object per box, as COCO's evaluation reads it
    (https://cocodataset.org/#format-results): ``image_id``, ``category_id``, ``bbox`` as left, top, width and
    height in pixels, ``score``; and ``file_name`` besides. An image with an EXIF rotation has the coordinates
    of its annotation, or without one, of the upright image.
    """

    file_name = "detections.json"

    def write(self, file: TextIO, outputs: Any, batch: Any, pl_module: LightningModule) -> None:
        """Write the boxes of a batch, one per line."""
        ids = zip(batch.indices.tolist(), batch.image_ids.tolist(), outputs, strict=True)
        for index, image_id, detections in ids:
            name = self.name_of(index)
            for box in as_results(detections, image_id, self.data.category_ids):
                file.write(json.dumps(box | {"file_name": name}) + "\n")

    def join(self, parts: Sequence[Path]) -> None:
        """Make one list of the boxes of all parts."""
        with atomic_write(self.path) as out, fileinput.FileInput(parts, encoding="utf-8") as lines:
            out.write(b"[")
            for number, line in enumerate(lines):
                out.write((",\n" if number else "\n").encode() + line.rstrip("\n").encode())
            out.write(b"\n]\n")


def as_results(detections: Any, image_id: int, category_ids: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Return the boxes of an image as COCO results.

    Args:
        detections: ``boxes`` (D, 4) as left, top, right and bottom, ``labels`` and ``scores`` (D,).
        image_id: Id of the image.
        category_ids: What the annotation files call the classes 1, 2, ...
    """
    columns = (detections[name].tolist() for name in ("boxes", "labels", "scores"))
    for (left, top, right, bottom), label, score in zip(*columns, strict=True):
        yield {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 6),
        }
