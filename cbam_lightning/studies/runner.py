"""Makes the remaining runs of a study, each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from cbam_lightning.callbacks.resume.divergence import EXIT_DIVERGED
from cbam_lightning.errors import RunStopped
from cbam_lightning.studies.plan import StudyRun
from cbam_lightning.studies.progress import StudyProgress

_POLL_S = 0.5
_STOPPING = (signal.SIGINT, signal.SIGTERM) + ((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ())


def run_study(runs: Sequence[StudyRun], jobs: int = 1, threads: int | None = None) -> list[StudyRun]:
    """Make the runs that are not finished; an interrupted run resumes.

    The output of a run goes to ``output.txt`` in its directory. A run whose loss becomes NaN or Inf counts as
    a result, and the others continue. After any other failure no further run starts. A signal, such as
    Ctrl-C, is passed on to the runs, which save their state, and ends the study.

    Args:
        runs: Of a study, or of a part of one.
        jobs: Number of runs at a time.
        threads: CPU threads of each run; ``None``: torch's default.

    Returns:
        The runs whose training diverged.

    Raises:
        RunStopped: A signal came, or a run failed; says which, and why.
        UsageError: A run already exists with other settings than the study says.
    """
    waiting = [run for run in runs if not run.metrics() and not run.diverged]
    diverged = sum(run.diverged for run in runs)
    of_them = f" {diverged} of them diverged." if diverged else ""
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished.{of_them}", flush=True)
    pool = _ProcessPool(threads)
    with closing(StudyProgress(runs)) as progress, pool.stopped_by_signals():
        while pool.workers or waiting:
            while waiting and len(pool.workers) < jobs and not pool.stopped:
                pool.start(waiting.pop(0))
            for run in pool.ended():
                progress.report(run, left=len(waiting) + len(pool.workers))
            if pool.stopped and not pool.workers:
                raise RunStopped(*pool.stopped)
            progress.update()
            time.sleep(_POLL_S)
    return [run for run in runs if run.diverged]


class _ProcessPool:
    """The processes of the current runs."""

    def __init__(self, threads: int | None) -> None:
        self.workers: dict[subprocess.Popen[bytes], StudyRun] = {}
        self.stopped: tuple[str, int] | None = None  # reason and exit code
        self._environment = dict(os.environ)
        if threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(threads)

    def start(self, run: StudyRun) -> None:
        run.directory.path.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cbam_lightning", "fit", *run.options]
        with _output(run).open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches it only through us, once
            )
        self.workers[process] = run

    def ended(self) -> Iterator[StudyRun]:
        for process in [p for p in self.workers if p.poll() is not None]:
            run = self.workers.pop(process)
            self._stop_after_failure(run, process.returncode)
            yield run

    def _stop_after_failure(self, run: StudyRun, code: int) -> None:
        # a negative code is the number of the signal that killed it, perhaps before it could say so
        if code < 0 or (code and not run.directory.config.is_file()):
            run.directory.note_ending("stopped" if -code in _STOPPING else "failed")
        finished = code == EXIT_DIVERGED or (code == 0 and run.metrics())
        if not finished and self.stopped is None:
            reason = _last_line(_output(run)) if code else "it ended without a test."
            self.stopped = f"{run.name}: {reason}", code if code > 0 else 1
            self._terminate()

    def _terminate(self) -> None:
        for process in self.workers:
            process.terminate()

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped is None:
                name = signal.Signals(number).name
                message = f"{name}: the runs are saved; repeat the command to resume them."
                self.stopped = message, 128 + number
                self._terminate()

        before = {number: signal.signal(number, stop) for number in _STOPPING}
        try:
            yield
        finally:
            self._terminate()  # in case an error of our own ended the study
            for number, handler in before.items():
                signal.signal(number, handler)


def _output(run: StudyRun) -> Path:
    return run.directory.path / "output.txt"


def _last_line(path: Path) -> str:
    text = path.read_bytes()[-5000:].decode(errors="replace").replace("\r", "\n").strip()
    return f"{text.splitlines()[-1] if text else 'it failed without a message.'} (full output: {path})"
