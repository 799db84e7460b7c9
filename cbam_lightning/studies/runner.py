"""Runs what is left of a study, each run as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from tqdm import tqdm

from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
from cbam_lightning.callbacks.run_record import MAIN_FIGURES
from cbam_lightning.errors import RunStopped
from cbam_lightning.studies.plan import StudyRun
from cbam_lightning.studies.progress import epochs_done, how_long, max_epochs

_POLL_S = 0.5
_STOPPING = (signal.SIGINT, signal.SIGTERM) + ((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ())


def run_study(runs: Sequence[StudyRun], jobs: int = 1, threads: int | None = None) -> list[StudyRun]:
    """Make the runs that are not finished; one that was cut off goes on where it was.

    What a run prints goes to ``output.txt`` in its directory. A run whose loss is no number any more is a
    result, and the others go on. After any other failure no further run is started; a signal, such as
    Ctrl-C, is passed on to the runs, which save their state, and ends the study.

    Args:
        runs: Of a study, or of a part of one.
        jobs: How many to run at a time.
        threads: CPU threads of each; ``None`` leaves it to torch.

    Returns:
        Those whose training diverged.

    Raises:
        RunStopped: A signal came, or a run failed; says which, and why.
        UsageError: A run is there already, and has other settings than the study says.
    """
    waiting = [run for run in runs if not run.metrics() and not run.diverged]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished.", flush=True)
    crew = _Crew(threads)
    with _Watch(runs) as watch, crew.listening():
        while crew.at_work or waiting:
            while waiting and len(crew.at_work) < jobs and not crew.stopped:
                crew.start(waiting.pop(0))
            for run in crew.ended():
                watch.report(run, left=len(waiting) + len(crew.at_work))
            if crew.stopped and not crew.at_work:
                raise RunStopped(*crew.stopped)
            watch.update()
            time.sleep(_POLL_S)
    return [run for run in runs if run.diverged]


@dataclass
class _Worker:
    run: StudyRun
    process: subprocess.Popen[bytes]
    output: IO[bytes]


class _Crew:
    """The processes that are at work."""

    def __init__(self, threads: int | None) -> None:
        self.at_work: list[_Worker] = []
        self.stopped: tuple[str, int] | None = None  # why, and the exit code
        self._environment = dict(os.environ)
        if threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(threads)

    def start(self, run: StudyRun) -> None:
        folder = run.directory.path
        folder.mkdir(parents=True, exist_ok=True)
        output = (folder / "output.txt").open("ab")
        command = [sys.executable, "-m", "cbam_lightning", "fit", *run.options]
        # a session of its own: Ctrl-C reaches it once, through us
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )
        self.at_work.append(_Worker(run, process, output))

    def ended(self) -> Iterator[StudyRun]:
        for worker in [w for w in self.at_work if w.process.poll() is not None]:
            self.at_work.remove(worker)
            worker.output.close()
            self._judge(worker)
            yield worker.run

    def _judge(self, worker: _Worker) -> None:
        code = worker.process.returncode
        finished = code == EXIT_DIVERGED or (code == 0 and worker.run.metrics())
        if not finished and self.stopped is None:
            reason = _last_line(Path(worker.output.name)) if code else "it ended without a test."
            # a negative code is the number of the signal that killed it
            self.stopped = f"{worker.run.name}: {reason}", code if code > 0 else 1
            self.interrupt()

    def interrupt(self) -> None:
        for worker in self.at_work:
            worker.process.send_signal(signal.SIGTERM)

    @contextmanager
    def listening(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped is None:
                name = signal.Signals(number).name
                message = f"{name}: the runs are saved; the same command goes on with them."
                self.stopped = message, 128 + number
                self.interrupt()

        before = {number: signal.signal(number, stop) for number in _STOPPING}
        try:
            yield
        finally:
            self.interrupt()  # if it was an error of our own that ended the study
            for number, handler in before.items():
                signal.signal(number, handler)


class _Watch:
    """A bar over all epochs of the study with the time left, and a line for each run that ends."""

    def __init__(self, runs: Sequence[StudyRun]) -> None:
        self._runs = runs
        self._finished = {run.name for run in runs if run.metrics() or run.diverged}
        self._lengths = {run.name: max_epochs(run) for run in runs}
        self._started = time.monotonic()
        self._done_before = self._done()

    def __enter__(self) -> _Watch:
        total = sum(self._lengths.values())
        # disable=None: no bar where nobody sees it
        self._bar = tqdm(
            total=total, initial=self._done_before, unit="epoch", smoothing=0.05, disable=None, desc="study"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _done(self) -> float:
        return sum(
            length if name in self._finished else min(length, epochs_done(run.directory))
            for run, (name, length) in zip(self._runs, self._lengths.items(), strict=True)
        )

    def update(self) -> None:
        if not self._bar.disable:
            self._bar.update(self._done() - self._bar.n)

    def report(self, run: StudyRun, left: int) -> None:
        metrics = run.metrics()
        self._finished.add(run.name)
        shown = [f"{name} {metrics[name]:.4f}" for name in MAIN_FIGURES if name in metrics]
        figures = shown[0] if shown else "no result"
        done, total = self._done(), sum(self._lengths.values())
        elapsed, made = time.monotonic() - self._started, done - self._done_before
        remaining = f", about {how_long(elapsed / made * (total - done))} left" if made > 0 and left else ""
        self._bar.write(f"{run.name}: {figures}; {left} to go{remaining}")
        sys.stdout.flush()


def _last_line(path: Path) -> str:
    text = path.read_bytes()[-5000:].decode(errors="replace").replace("\r", "\n").strip()
    return f"{text.splitlines()[-1] if text else 'it failed without a word.'} (all of it: {path})"
