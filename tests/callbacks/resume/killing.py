"""Runs that are killed at random moments, and go on."""

import random
import signal
import time
from pathlib import Path

from tests.processes import start, wait

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


def rows(run):
    """Return how often something was logged."""
    path = run / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_somewhere(process, run, at_row, delay_s):
    """Kill a process a moment after it has logged a row.

    Returns:
        The row it got to, or None if it was faster: a process that is already ending keeps its own exit code.
    """
    while process.is_alive():
        if rows(run) >= at_row:
            time.sleep(delay_s)
            process.kill()
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
        got_to.append(kill_somewhere(start(command, f"{name}.log"), run, at_row, delay_s))
    return got_to, wait(start(["resume", str(run)], f"{name}.log"))
