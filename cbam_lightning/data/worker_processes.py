"""The processes that read data: they leave signals to the main process, and never fail in silence."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

# Exit code of a worker that could not hand over a batch: EX_IOERR of sysexits.h.
EXIT_CANNOT_SEND = 74
_LEFT_SIGNALS = {
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
}
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
        for number in _LEFT_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_SIGNALS)
        # the hook of multiprocessing for this; its own prints the error and loses the batch
        Queue._on_queue_feeder_error = staticmethod(_fail)  # type: ignore[attr-defined]
        if self.init is not None:
            self.init(worker)


def _fail(error: BaseException, batch: object) -> None:
    print(f"a batch could not be handed over: {error}", file=sys.stderr, flush=True)
    os._exit(EXIT_CANNOT_SEND)


@contextmanager
def starting_workers(loaders: Iterable[Any]) -> Iterator[None]:
    """Start the worker processes of loaders in this context, to let them begin with ``WorkerSetup``.

    The signals that they leave to the main process reach it at the end only: a process that has not begun, or
    the server of ``forkserver``, would die of one.
    """
    with_workers = [loader for loader in loaders if getattr(loader, "num_workers", 0)]
    for loader in with_workers:
        if not isinstance(loader.worker_init_fn, WorkerSetup):
            loader.worker_init_fn = WorkerSetup(loader.worker_init_fn)
            atexit.unregister(_end_children)
            atexit.register(_end_children)  # later than that of multiprocessing, and so before it
    if not with_workers or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_children() -> None:
    """End the worker processes that are left; multiprocessing waits for one that ignores SIGTERM for ever."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler raises the error of a worker that was killed, here and wherever else it is called
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.terminate()
    until_s = time.monotonic() + _WAIT_S
    for child in children:
        child.join(max(0.0, until_s - time.monotonic()))
        if child.is_alive():
            child.kill()
