"""The CSV file of a run's metrics, which a resumed run continues without doubled or lost rows."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cbam_lightning.runs.lines import LineFile


class MetricsFile(Logger):
    """Every logged metric as CSV, one row per call of ``log_metrics``.

    Lightning's ``CSVLogger`` deletes the file of a run that is resumed, and truncates it to write it again
    whenever a new metric appears.

    Args:
        path: The file.
        keep_points: Number of rows to keep; later ones are removed.
    """

    def __init__(self, path: Path, keep_points: int = 0) -> None:
        super().__init__()
        self.points = keep_points
        self._path, self._keep = path, keep_points
        self._file: LineFile | None = None
        self._names: list[str] = []

    @property
    def name(self) -> None:
        """None: the run's directory has a name."""

    @property
    def version(self) -> str:
        """Name of the run's directory, the end of which the progress bar shows as ``v_num``."""
        return self._path.parent.name

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
        """Drop the columns of metrics that appeared after the checkpoint only."""
        if not file.lines():
            return
        names, *rows = csv.reader(file.lines())
        used = [i for i in range(len(names)) if any(row[i] for row in rows)]
        self._names = [names[i] for i in used]
        kept = [_csv_line([row[i] for i in used]) for row in rows]
        file.replace([_csv_line(self._names), *kept])

    def _widen(self, file: LineFile, row: Mapping[str, Any]) -> None:
        """Add the columns of new metrics to all rows."""
        names = sorted({*self._names, *row})
        rows = list(csv.DictReader(file.lines()))
        lines = [_csv_line(names), *(_csv_line([old.get(name, "") for name in names]) for old in rows)]
        try:
            file.replace(lines)
        except OSError as error:
            new = ", ".join(sorted(row.keys() - set(self._names)))
            warnings.warn(f"{file.path} cannot be extended by {new} now ({error.strerror}).", stacklevel=2)
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
