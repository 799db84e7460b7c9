"""What ends a training early: signals, a loss that is no number, a full disk."""

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.run_files import unfinished_state
from tests.callbacks.resume.interrupting import TINY, FillTheDisk, FreeTheDisk, LoseTheLoss, SendSignal, at
from tests.command import call
from tests.processes import start, wait

RUN = Path("runs/default/run")
SHORT = "--run.name run --trainer.max_epochs 2 --trainer.limit_train_batches 6"


def last_step():
    return torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.fixture
def hears_hang_up():
    """Undo what ``nohup`` may have done to these tests, which would be right for a run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_ends_with_its_exit_code_and_the_command_to_go_on(name, hears_hang_up, capsys):
    # a shell's background job ignores SIGINT
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    code = call("fit", TINY, SHORT, at(SendSignal, 0, 3, name=name))
    assert code == 128 + getattr(signal, name)
    assert last_step() == 4
    said = capsys.readouterr().err
    (line,) = re.findall(
        r"cbam-lightning: (stopped after step 4, with everything saved\. Continue with: .*)", said
    )
    assert line.endswith(f"resume {RUN}")
    assert unfinished_state(RunDirectory(RUN)) == "stopped"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_real_process_heeds_a_signal_from_outside():
    words = f"fit {TINY} --run.name run --trainer.max_epochs 50 --trainer.limit_train_batches 20".split()
    process = start(words, "run.log")
    metrics = RUN / "metrics.csv"
    while not metrics.is_file() or metrics.read_text().count("\n") < 8:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 143, Path("run.log").read_text()
    with metrics.open(newline="") as file:
        losses = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert last_step() == len(losses) > 0
    assert f"stopped after step {last_step()}," in Path("run.log").read_text()


def test_a_second_interrupt_stops_at_once():
    from cbam_lightning.callbacks.resume.signals import StopSignals

    signals = StopSignals()
    signals._note(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        signals._note(signal.SIGINT, None)


def test_slurm_queues_the_job_again(monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 77, "JOB_NAME": "job"}
    for name, value in {**slurm, "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    fragment = Path(__file__).parents[3] / "experiments" / "with" / "slurm.yaml"
    options = f"--config {fragment} --trainer.accelerator cpu --trainer.devices 1 --trainer.strategy auto"
    assert call("fit", options, TINY, SHORT, at(SendSignal, 0, 2, name="SIGUSR1")) == 138
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    # the same command, queued again, goes on by the run's name
    assert call("fit", options, TINY, SHORT) == 0
    state = torch.load("runs/with/slurm/run/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 12
    rows = Path("runs/with/slurm/run/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 12 + 2 + 2 + 1  # losses and rates; train and val of two epochs; test


@pytest.mark.parametrize(
    ("batch", "what"), [(2, "the loss became NaN or Inf (nan)"), (3, "weights became NaN or Inf")]
)
def test_numbers_that_are_lost_are_told_with_their_images(batch, what, capsys):
    """The loss shows it one batch later than the weights, which are looked at when they are saved."""
    assert call("fit", TINY, SHORT, "--save.every_steps 2", at(LoseTheLoss, 0, batch)) == 3
    said = capsys.readouterr().err
    assert f"{what} at step 4, epoch 0, batch 3: fashion_mnist/train/" in said
    assert f"Last good checkpoint: {RUN}/checkpoints/last.ckpt" in said
    report = json.loads((RUN / "divergence.json").read_text())
    assert (report["step"], report["epoch"], report["batch"]) == (4, 0, 3)
    assert len(report["images"]) == 32
    assert all(re.fullmatch(r"fashion_mnist/train/\d{5}", name) for name in report["images"])
    assert last_step() == 2
    state = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert unfinished_state(RunDirectory(RUN)) == "diverged"


FULL = at(FillTheDisk, 0, 3, max_bytes=20_000)  # the metrics fit, a checkpoint does not
FREE_AGAIN = at(FreeTheDisk, 1, 2)


@pytest.mark.parametrize(
    ("options", "code", "steps", "saved"),
    [
        (f"--save.on_error warn {FULL} {FREE_AGAIN}", 0, 12, 12),
        (f"--save.on_error warn {FULL}", 1, 12, 2),
        (f"--save.on_error stop {FULL}", 1, 4, 2),
    ],
    ids=["free again", "full to the end", "stop"],
)
def test_a_full_disk(options, code, steps, saved):
    words = f"fit {TINY} {SHORT} --save.every_steps 2 --run.test_after_fit false {options}"
    process = start(words.split(), "run.log")
    assert wait(process) == code, Path("run.log").read_text()
    said = Path("run.log").read_text()
    assert "last.ckpt could not be written (File too large); the previous one stays" in said
    assert last_step() == saved
    assert not list(RUN.rglob("*.tmp"))
    with (RUN / "metrics.csv").open(newline="") as file:
        assert sum(bool(row["train/loss"]) for row in csv.DictReader(file)) == steps
    assert unfinished_state(RunDirectory(RUN)) == ("failed" if code else "untested")
    if code:
        assert f"resume {RUN}` continues from it" in said
    assert call("resume", RUN) == 0
    assert last_step() == 12
