"""Runs as processes of their own that are killed, forked from one that has imported everything already.

    python -m tests.callbacks.resume.survivors KILLS SEED [OPTIONS OF FIT]

trains ``runs/default/whole`` without a break and ``runs/default/killed`` with breaks at random moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import wandb.sdk.launch  # noqa: F401 - wandb.init imports it, for seconds

import cbam_lightning.cli.trainer  # noqa: F401
from cbam_lightning.cli.main import main

TRAINING = (
    "fit --data FashionMNIST --data.batch_size 32 --data.mixup_alpha 0.2 "
    "--model.network resnet20 --model.attention cbam "
    "--model.network_options.depths [1,1,1] --model.network_options.widths [8,16,32] "
    "--model.schedule WarmupCosine --model.schedule.warmup_epochs 0.5 "
    "--trainer.max_epochs 4 --trainer.limit_train_batches 12 --trainer.limit_val_batches 3 "
    "--trainer.limit_test_batches 2 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.callbacks+=EMA --save.every_steps 2 "
    "--trainer.deterministic true"
)


def child(words, log):
    """Run the command in a forked process; returns its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # pytest keeps them
    torch.set_num_threads(1)
    try:
        code = main(words)
    except BaseException as error:
        print(repr(error))
        code = 70
    os._exit(code)


def wait(process):
    """Return the exit code, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def rows(run):
    """Return how often something was logged."""
    path = run / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_somewhere(process, run, at_row, delay_s):
    """Kill a process a moment after it has logged a row.

    Returns:
        The row it got to, or None if it was faster: a process that is already ending keeps its own exit code.
    """
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if rows(run) >= at_row:
            time.sleep(delay_s)
            os.kill(process, signal.SIGKILL)
            return rows(run) if wait(process) == -signal.SIGKILL else None
        time.sleep(0.002)
    return None


def survive(name, words, kills, seed, last_row):
    """Kill a run again and again, then let it end; returns the rows it got to, and the exit code.

    However fast the machine is, the kills are spread over the run by its rows, and a moment of less than two
    steps comes on top, so that they fall into steps, evaluations and writing of checkpoints.
    """
    chance, got_to, run = random.Random(seed), [], Path("runs/default", name)
    for _ in range(kills):
        command = ["resume", str(run)] if run.joinpath("config.yaml").is_file() else words
        at_row = rows(run) + chance.randint(1, last_row // kills)
        delay_s = chance.uniform(0, 0.5 / kills)
        got_to.append(kill_somewhere(child(command, f"{name}.log"), run, at_row, delay_s))
    return got_to, wait(child(["resume", str(run)], f"{name}.log"))


if __name__ == "__main__":
    kills, seed, *options = sys.argv[1:]
    words = [*TRAINING.split(), *options, "--run.name"]
    whole = wait(child([*words, "whole"], "whole.log"))
    last_row = rows(Path("runs/default/whole"))
    got_to, killed = survive("killed", [*words, "killed"], int(kills), int(seed), last_row)
    print(json.dumps({"whole": whole, "killed": killed, "got_to": got_to}))
