"""Processes of their own, which have everything imported already.

They are forked from a server that has no threads. A process of tests has some (of W&B, progress bars and
TensorBoard), and a lock that one of them holds while the process is forked is never released in the child.
"""

import multiprocessing
import os
import resource
import sys
import warnings
from pathlib import Path

import torch

from cbam_lightning.cli.main import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cbam_lightning.cli.trainer", "wandb.sdk.launch"])
LONGEST_S = 240


def fork(function, *args):
    """Start a function of a module in a process of its own."""
    process = SERVER.Process(target=_call, args=(function, args))
    process.start()
    return process


def _call(function, args):
    multiprocessing.set_start_method("fork", force=True)  # Linux's default; a server's process has another
    function(*args)


def _command(words, log, environment, max_file_bytes):
    """Run the command in this process, and end the process with its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    warnings.simplefilter("default")
    torch.set_num_threads(1)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    try:
        code = main(words)
    except BaseException as error:
        print(repr(error))
        code = 70
    os._exit(code)


def start(words, log, max_file_bytes=None):
    """Start the command in this folder, with this environment; what it prints is appended to a file.

    A limit on the size of a file makes writing fail in the middle, as a full disk does.
    """
    return fork(_command, words, log, dict(os.environ), max_file_bytes)


def wait(process):
    """Return the exit code, or minus the number of the signal."""
    process.join(LONGEST_S)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"the process did not end within {LONGEST_S} s")
    return process.exitcode
