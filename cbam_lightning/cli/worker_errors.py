"""What a message of PyTorch about a worker process that ended means, and what to do about it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from cbam_lightning.data.worker_processes import EXIT_CANNOT_SEND
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import resume_command
from cbam_lightning.user_code.tracebacks import with_causes

_SHARED_MEMORY = Path("/dev/shm")
_FEWER = "use fewer (--data.num_workers), or smaller batches"
# torch/utils/data/_utils/signal_handling.py and torch/csrc/DataLoader.cpp
_KILLED = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) is killed by signal: ([^.]*)")
_EXITED = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) exited unexpectedly(?: with exit code (\d+))?")


def worker_failure(error: BaseException, run: RunDirectory) -> OSError | None:
    """Return the error of a machine on which a worker process could not live; ``None`` for any other error.

    Args:
        error: Any error of a training or an evaluation.
        run: The run; the message says how to continue it.
    """
    if not isinstance(error, RuntimeError):
        return None
    # the first cause says most: why the worker ended that "exited unexpectedly"
    cause = _cause(" ".join(str(each) for each in reversed(list(with_causes(error)))))
    if cause is None:
        return None
    command = resume_command(run.path)
    goes_on = f"Continue with: {command}" if run.last.is_file() else "Nothing was saved; start it again."
    return OSError(f"{cause}. {goes_on}")


def _cause(text: str) -> str | None:
    killed, exited = _KILLED.search(text), _EXITED.search(text)
    if killed and killed[1].startswith("Bus error"):
        return _out_of_shared_memory()
    if killed and killed[1].startswith("Killed"):
        return f"a worker process was killed, most likely because the memory is full; {_FEWER}"
    if killed:
        return f"a worker process was ended by a signal ({killed[1]})"
    if exited and exited[1] in (None, str(EXIT_CANNOT_SEND)):  # PyTorch does not always say the code
        return _out_of_shared_memory()
    if exited:
        return f"a worker process ended with exit code {exited[1]}; --data.num_workers 0 shows the cause"
    if "Too many open files. Communication with the workers" in text:
        return f"too many open files for the worker processes; raise the limit (ulimit -n), or {_FEWER}"
    return None


def _out_of_shared_memory() -> str:
    is_there = _SHARED_MEMORY.is_dir()
    free_mib = shutil.disk_usage(_SHARED_MEMORY).free / 2**20 if is_there else 0
    return (
        "a worker process ended, most likely because it could not hand over a batch: shared memory"
        + (f" ({_SHARED_MEMORY} has {free_mib:.0f} MiB free)" if is_there else "")
        + " or open files (ulimit -n) are not enough; give a container more (--shm-size), "
        + f"{_FEWER}, or read in the main process (--data.num_workers 0)"
    )
