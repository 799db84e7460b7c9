"""Signals that ask a run to stop: they are recorded, and take effect when the batch is done."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from types import FrameType

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer

# What schedulers, service managers, Ctrl-C and a closed terminal send.
_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


class StopSignals:
    """Records SIGTERM, SIGINT, SIGUSR1, SIGHUP and SLURM's requeue signal; a second SIGINT stops at once.

    SIGHUP stays ignored under ``nohup``.

    Attributes:
        received: The first signal that was received.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._requeue: signal.Signals | None = None

    def install(self, trainer: Trainer) -> None:
        """Replace Lightning's handlers, which save in the middle of a batch, or not at all.

        Lightning itself restores the previous handlers when training ends.
        """
        # of a signal that only these handlers see; all processes would wait for it before each batch
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is not threading.main_thread():
            return
        environment = trainer._accelerator_connector.cluster_environment
        numbers = {getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)}
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue = environment.requeue_signal or signal.SIGUSR1
            numbers.add(self._requeue)
        hang_up = getattr(signal, "SIGHUP", None)
        if hang_up is not None and signal.getsignal(hang_up) is signal.SIG_IGN:
            numbers.discard(hang_up)
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if self.received is None:
            self.received = signal.Signals(number)
            text = f"\n{self.received.name}: finishing the batch, then saving. Ctrl-C again stops at once.\n"
            # the stream may have no descriptor, or its terminal may be the one that was closed
            with contextlib.suppress(AttributeError, OSError, ValueError):
                os.write(sys.stderr.fileno(), text.encode())

    @property
    def asks_to_requeue(self) -> bool:
        """Whether the signal was SLURM's request to requeue the job."""
        return self.received is not None and self.received == self._requeue


def requeue() -> None:
    """Queue this SLURM job again; it must be requeueable."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"\d+(_\d+)?", job):
        warnings.warn(f"the job cannot be queued again: SLURM's job id is {job!r}.", stacklevel=2)
        return
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        warnings.warn(f"scontrol requeue {job}: {done.stderr.strip()}", stacklevel=2)
