"""Worker processes that signals reach, and that cannot hand over their batch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from cbam_lightning.data.worker_processes import EXIT_CANNOT_SEND, starting_workers

REPOSITORY = Path(__file__).parents[2]


class Pids(Dataset):
    """Item i is the id of the process that reads it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return os.getpid()


class Unsendable(Pids):
    """Item 1 fails to be handed over, as a tensor does when shared memory is full."""

    def __getitem__(self, index):
        return Stuck() if index else 0


class Stuck:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


def note(worker):
    Path(f"noted-{worker}").touch()


def as_they_are(items):
    return items


SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_leave_the_signals_to_the_main_process_from_their_start_on(method):
    loader = DataLoader(Pids(), 1, num_workers=2, multiprocessing_context=method, worker_init_fn=note)
    for _ in range(2):
        with starting_workers([loader]):
            batches = iter(loader)
    started = [worker.pid for worker in batches._workers]
    for number in SIGNALS:
        os.kill(started[0], number)
    pid = int(next(batches))
    for number in SIGNALS:
        os.kill(pid, number)
    assert {pid, *(int(batch) for batch in batches)} == set(started)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & SIGNALS
    assert {path.name for path in Path().glob("noted-*")} == {"noted-0", "noted-1"}


def test_a_loader_without_workers_is_left_alone():
    loader = DataLoader(Pids(), 1)
    with starting_workers([loader, [1, 2]]):
        assert loader.worker_init_fn is None
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & SIGNALS


@pytest.mark.timeout(60)  # it would wait for ever
def test_a_batch_that_cannot_be_handed_over_ends_the_worker_at_once(capfd):
    loader = DataLoader(Unsendable(), 1, num_workers=1, collate_fn=as_they_are)
    with starting_workers([loader]):
        batches = iter(loader)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        list(batches)
    assert "a batch could not be handed over: [Errno 28] No space left on device" in capfd.readouterr().err
    assert EXIT_CANNOT_SEND == os.EX_IOERR


STUCK = """
import os, signal, sys
from torch.utils.data import DataLoader
from cbam_lightning.data.worker_processes import starting_workers
from tests.data.test_worker_processes import Sleeper
loader = DataLoader(Sleeper(), 1, num_workers=2)
with starting_workers([loader]):
    batches = iter(loader)
print(int(next(batches)), flush=True)
if "kill" in sys.argv:
    try:
        os.kill(batches._workers[1].pid, signal.SIGKILL)
        next(batches)
    except RuntimeError as error:
        print(error)
"""


class Sleeper(Pids):
    """Sleeps for ever over its second item."""

    def __getitem__(self, index):
        return time.sleep(600) if index else os.getpid()


@pytest.mark.parametrize("words", [[], ["kill"]])
def test_workers_that_are_stuck_end_with_the_main_process_and_without_a_word(words):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", STUCK, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    pid, *killed = done.stdout.splitlines()
    assert bool(killed) == bool(words)
    assert all(line.startswith("DataLoader worker") for line in killed)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
