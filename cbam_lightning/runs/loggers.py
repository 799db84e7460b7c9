"""The loggers of a run, which can be set back to a checkpoint without doubled or lost points."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import wandb
from PIL import Image
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment  # type: ignore[attr-defined]
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.lines import LineFile

# Counts the points of a run in W&B, so that one that is resumed knows which are there.
POINT = "trainer/point"


class MetricsFile(Logger):
    """Every logged metric as CSV, a row for each time something was logged.

    Lightning's ``CSVLogger`` deletes the file of a run that goes on, and writes it anew, for a moment losing
    all of it, when a metric comes up for the first time.

    Args:
        path: The file.
        keep_points: Rows at its beginning that stay.
    """

    def __init__(self, path: Path, keep_points: int = 0) -> None:
        super().__init__()
        self.points = keep_points
        self._path, self._keep = path, keep_points
        self._file: LineFile | None = None
        self._names: list[str] = []

    @property
    def name(self) -> None:
        """The directory names the run."""

    @property
    def version(self) -> None:
        """The directory names the run."""

    @property
    def save_dir(self) -> str:
        """The run's directory."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        row = {**metrics, "step": self.points if step is None else step}
        file = self._opened()
        if row.keys() - set(self._names):
            self._widen(file, row)
        file.append(_csv_line([row.get(name, "") for name in self._names]))
        self.points += 1

    def _opened(self) -> LineFile:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = LineFile(self._path, self._keep + 1 if self._keep else 0)
            self._keep_used_columns(self._file)
        return self._file

    def _keep_used_columns(self, file: LineFile) -> None:
        """Drop the columns of metrics that came up after the checkpoint only."""
        if not file.lines():
            return
        names, *rows = csv.reader(file.lines())
        used = [i for i in range(len(names)) if any(row[i] for row in rows)]
        self._names = [names[i] for i in used]
        kept = [_csv_line([row[i] for i in used]) for row in rows]
        file.replace([_csv_line(self._names), *kept])

    def _widen(self, file: LineFile, row: Mapping[str, Any]) -> None:
        """Give new metrics their columns, in all rows."""
        names = sorted({*self._names, *row})
        rows = list(csv.DictReader(file.lines()))
        lines = [_csv_line(names), *(_csv_line([old.get(name, "") for name in names]) for old in rows)]
        try:
            file.replace(lines)
        except OSError as error:
            new = ", ".join(sorted(row.keys() - set(self._names)))
            warnings.warn(f"{file.path} cannot take up {new} now ({error.strerror}).", stacklevel=2)
        else:
            self._names = names

    @rank_zero_only
    def sync(self) -> None:
        """Wait until the rows are on the disk."""
        self._opened().sync()


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


class WandbJournal(WandbLogger):
    """W&B, with a journal in the run's directory of everything that was sent there.

    A run that is resumed sends what W&B has lost of the journal, or all of it to the new recording of a run
    that is offline, and goes on at the point of the checkpoint.

    Args:
        run: Its ``history.jsonl`` and its folder ``history`` hold the journal.
        keep_points: Points of the journal that stay.
        **options: Of ``WandbLogger``.
    """

    def __init__(self, run: RunDirectory, keep_points: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.points = keep_points
        self._run = run
        self._failed = False
        self._last_there = -1  # the last point that W&B had before

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B, which knows all points of the journal once it is there."""
        if self._experiment is None:
            experiment = super().experiment
            self._last_there = int(experiment.summary.get(POINT, -1))
            for point, line in enumerate(self._journal.lines()):
                if point > self._last_there:
                    experiment.log({**self._decode(json.loads(line)), POINT: point})
        return self._experiment

    @cached_property
    def _journal(self) -> LineFile:
        return LineFile(self._run.history, self.points)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a point into the journal, then send it; training goes on if it cannot be sent."""
        point = dict(metrics) if step is None else {**metrics, "trainer/global_step": step}
        experiment = self.experiment
        self._journal.append(json.dumps(self._encode(point)))
        if self.points > self._last_there:
            self._send(experiment, {**point, POINT: self.points})
        self.points += 1

    def _send(self, experiment: Any, point: dict[str, Any]) -> None:
        try:
            experiment.log(point)
        except Exception as error:  # its service is another process, and may be gone
            if not self._failed:
                text = f"W&B takes no more points ({error}); `cbam-lightning resume` sends them."
                warnings.warn(text, stacklevel=2)
            self._failed = True

    def _encode(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a point into what JSON can hold; pictures become files."""
        encoded: dict[str, Any] = {"values": {}, "images": {}, "boxes": {}, "tables": {}}
        for key, value in point.items():
            if isinstance(value, list) and value and all(isinstance(item, wandb.Image) for item in value):
                encoded["images"][key] = [self._keep(key, i, image) for i, image in enumerate(value)]
                encoded["boxes"][key] = [_boxes(image) for image in value]
            elif isinstance(value, wandb.Table):
                encoded["tables"][key] = {"columns": value.columns, "data": value.data}
            elif isinstance(value, (int, float, str)):
                encoded["values"][key] = value
        return encoded

    def _keep(self, key: str, number: int, image: wandb.Image) -> str:
        name = f"{self.points:06d}_{key.replace('/', '_')}_{number}.png"
        folder = self._run.history.with_suffix("")
        try:
            folder.mkdir(exist_ok=True)
            if image.image is not None:  # else it was made of a file that is gone
                image.image.save(folder / name)
        except OSError as error:
            warnings.warn(f"{folder / name} cannot be written ({error.strerror}).", stacklevel=2)
        return name

    def _decode(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        folder = self._run.history.with_suffix("")
        point: dict[str, Any] = dict(encoded["values"])
        for key, names in encoded["images"].items():
            boxes = encoded.get("boxes", {}).get(key) or [None] * len(names)
            point[key] = [
                wandb.Image(Image.open(folder / name), boxes=_with_numbers(box))
                for name, box in zip(names, boxes, strict=True)
                if (folder / name).is_file()
            ]
        for key, table in encoded["tables"].items():
            point[key] = wandb.Table(columns=table["columns"], data=table["data"])
        return point

    @rank_zero_only
    def sync(self) -> None:
        """Wait until the journal is on the disk."""
        self._journal.sync()


def _boxes(image: wandb.Image) -> dict[str, Any] | None:
    """Return an image's boxes as they were given, which W&B keeps in private."""
    return image._boxes and {
        name: {"box_data": boxes._val, "class_labels": boxes._class_labels}
        for name, boxes in image._boxes.items()
    }


def _with_numbers(boxes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Turn the numbers of classes, which are text in JSON, back into numbers."""
    if boxes is None:
        return None
    return {
        name: {**found, "class_labels": {int(k): v for k, v in found["class_labels"].items()}}
        for name, found in boxes.items()
    }
