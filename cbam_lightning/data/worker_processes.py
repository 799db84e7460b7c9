"""The processes that read data: they leave signals to the main process, and never fail in silence."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.queues import Queue
from typing import Any

# Exit code of a worker that could not hand over a batch: EX_IOERR of sysexits.h.
EXIT_CANNOT_SEND = 74
_LEFT_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
_WAIT_S = 2.0


class WorkerSetup:
    """What a worker process of a ``DataLoader`` does first.

    It ignores the signals that ask a run to stop: a scheduler or service manager sends them to all processes
    of a job, and without its workers the main process could neither finish its batch nor save. It ends when
    it cannot hand over a batch, for which the main process would wait for ever. It also ends when the main
    process is gone, or tells it to.

    Args:
        init: The loader's own ``worker_init_fn``.
    """

    def __init__(self, init: Callable[[int], None] | None = None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """Set up a worker process."""
        for name in _LEFT_SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        # the hook of multiprocessing for this; its own prints the error and loses the batch
        Queue._on_queue_feeder_error = staticmethod(_fail)  # type: ignore[attr-defined]
        if self.init is not None:
            self.init(worker)


def _fail(error: BaseException, batch: object) -> None:
    print(f"a batch could not be handed over: {error}", file=sys.stderr, flush=True)
    os._exit(EXIT_CANNOT_SEND)


def set_up_workers(loaders: Iterable[Any]) -> None:
    """Let the worker processes of loaders begin with ``WorkerSetup``; call it before they are started."""
    for loader in loaders:
        init = getattr(loader, "worker_init_fn", None)
        if getattr(loader, "num_workers", 0) and not isinstance(init, WorkerSetup):
            loader.worker_init_fn = WorkerSetup(init)
            atexit.unregister(_end_children)
            atexit.register(_end_children)  # later than that of multiprocessing, and so before it


def _end_children() -> None:
    """End the worker processes that are left; multiprocessing waits for one that ignores SIGTERM for ever."""
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.terminate()
    until_s = time.monotonic() + _WAIT_S
    for child in children:
        child.join(max(0.0, until_s - time.monotonic()))
        if child.is_alive():
            child.kill()
