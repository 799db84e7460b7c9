"""The progress of a study, from what its runs have written."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from cbam_lightning.callbacks.run_record import MAIN_FIGURES
from cbam_lightning.studies.plan import StudyRun


class StudyProgress:
    """A bar over all epochs of a study with the remaining time, and a line for each run that ends.

    Args:
        runs: All runs, the finished ones included.
    """

    def __init__(self, runs: Sequence[StudyRun]) -> None:
        self._runs = runs
        self._finished = {run.name for run in runs if run.metrics() or run.diverged}
        self._started = time.monotonic()
        self._total = sum(map(max_epochs, runs))
        self._initial = self._done()
        # disable=None: no bar without a terminal
        self._bar = tqdm(
            desc="study", total=self._total, initial=self._initial, unit="epoch", disable=None, smoothing=0.05
        )

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()

    def _done(self) -> float:
        return sum(
            max_epochs(run) if run.name in self._finished else min(max_epochs(run), epochs_done(run))
            for run in self._runs
        )

    def update(self) -> None:
        """Move the bar."""
        if not self._bar.disable:
            self._bar.update(self._done() - self._bar.n)

    def report(self, run: StudyRun, left: int) -> None:
        """Print the result of a run that has ended.

        Args:
            run: The run.
            left: Number of runs that have not ended.
        """
        metrics = run.metrics()
        self._finished.add(run.name)
        shown = [f"{name} {metrics[name]:.4f}" for name in MAIN_FIGURES if name in metrics]
        done, seconds = self._done(), time.monotonic() - self._started
        remaining = ""
        if left and done > self._initial:
            time_left = seconds / (done - self._initial) * (self._total - done)
            remaining = f", about {tqdm.format_interval(time_left)} left"
        result = shown[0] if shown else run.state
        self._bar.write(f"{run.name}: {result}; {left} to go{remaining}")
        sys.stdout.flush()


def max_epochs(run: StudyRun) -> float:
    """Return the number of epochs that a run trains for; 1 if its configuration does not say."""
    value = run.expected.get("trainer.max_epochs")
    return float(value) if isinstance(value, (int, float)) and value > 0 else 1.0


def epochs_done(run: StudyRun) -> int:
    """Return the number of epochs that a run has validated."""
    if not run.directory.metrics.is_file():
        return 0
    with run.directory.metrics.open(newline="", errors="replace") as file:
        lines = (line.replace("\0", "") for line in file)  # which a power cut may leave
        rows = csv.DictReader(lines)
        return len({row["epoch"] for row in rows if row.get("val/loss") and row.get("epoch")})
