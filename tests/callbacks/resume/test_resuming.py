"""A training that is broken off anywhere and resumed ends as if it had not been, to the last bit."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import BatchSizeFinder

from cbam_lightning.models.registry import USER_NETWORKS
from tests.callbacks.resume.interrupting import (
    TINY,
    Crash,
    CrashHere,
    DropoutNet,
    SendSignal,
    at,
    differences,
    repeatable,
)
from tests.command import call

EPOCHS = (
    "--run.test_after_fit false --trainer.max_epochs 3 --trainer.limit_train_batches 6 "
    "--trainer.callbacks+=EMA"
)
CASES = {
    "epochs": EPOCHS,
    "steps": EPOCHS.replace("max_epochs 3", "max_epochs -1") + " --trainer.max_steps 15",
    "accumulated": EPOCHS + " --trainer.accumulate_grad_batches 4",
    "validated twice an epoch": EPOCHS + " --trainer.val_check_interval 0.5",
    "validated between accumulated batches": EPOCHS
    + " --trainer.val_check_interval 0.5 --trainer.accumulate_grad_batches 2",
    "validated every second epoch": EPOCHS + " --trainer.check_val_every_n_epoch 2",
    "plateau": EPOCHS
    + " --model.schedule TorchSchedule --model.schedule.scheduler torch.optim.lr_scheduler.ReduceLROnPlateau"
    + " --model.schedule.scheduler.patience 0 --model.schedule.monitor val/loss",
    "milestones": EPOCHS + " --model.schedule MultiStep --model.schedule.milestones_epochs [1,2]",
    "dropout": EPOCHS
    + " --model.network dropout_net --model.attention none"
    + " --model.network_options null",
    "adamw": EPOCHS + " --model.optimizer AdamW --model.optimizer.lr 0.001",
    "unfreezing": EPOCHS + " --trainer.callbacks+=GradualUnfreezing",
}
SAVING = "--save.every_steps 2"


def run_of(name):
    return Path("runs/default", name)


@pytest.fixture(autouse=True)
def dropout_net(monkeypatch):
    monkeypatch.setitem(USER_NETWORKS, "dropout_net", DropoutNet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trains each case once without a break, and returns where."""
    root, done = tmp_path_factory.mktemp("whole"), {}

    def train(case):
        if case not in done:
            assert call("fit", TINY, CASES[case], SAVING, f"--run.root {root} --run.name", f"'{case}'") == 0
            done[case] = root / "default" / case
        return done[case]

    return train


PLACES = [(0, 2, "train"), (1, 5, "train"), (1, 0, "val")]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_signal_anywhere_changes_nothing(whole, place):
    epoch, batch, stage = place
    stop = at(SendSignal, epoch, batch, stage=stage)
    assert call("fit", TINY, CASES["epochs"], SAVING, "--run.name cut", stop) == 143
    state = torch.load(run_of("cut") / "checkpoints" / "last.ckpt", weights_only=True)
    # that very batch is in it
    assert state["global_step"] == epoch * 6 + (batch + 1 if stage == "train" else 6)
    assert call("resume", run_of("cut")) == 0
    assert differences(run_of("cut"), whole("epochs")) == []


def break_off_twice(whole, case, place):
    epoch, batch, stage = place
    crash = at(CrashHere, epoch, batch, stage=stage)
    with pytest.raises(Crash):
        call("fit", TINY, CASES[case], SAVING, "--run.name cut", crash)
    assert call("resume", run_of("cut"), at(SendSignal, 2, 1)) == 143
    assert call("resume", run_of("cut")) == 0
    assert differences(run_of("cut"), whole(case)) == []


@pytest.mark.parametrize("case", ["steps", "accumulated", "plateau", "dropout", "unfreezing"])
def test_whatever_is_trained(whole, case):
    break_off_twice(whole, case, (1, 1, "val"))


def test_what_the_user_types_wins_over_the_checkpoint(capsys):
    """The learning rate keeps its place in the schedule; the old configuration is kept beside the new one."""
    options = "--model.schedule Constant --model.optimizer.lr 0.04 --model.optimizer.momentum 0.9"
    stop = at(SendSignal, 0, 3)
    assert call("fit", TINY, CASES["epochs"], SAVING, options, "--run.name cut", stop) == 143
    changed = "--model.optimizer.lr 0.01 --model.optimizer.momentum 0.5 --trainer.max_epochs 2"
    assert call("resume", run_of("cut"), changed) == 0
    with (run_of("cut") / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr-SGD"]) for row in csv.DictReader(file) if row["lr-SGD"]]
    assert rates == pytest.approx([0.04] * 4 + [0.01] * 8)
    state = torch.load(run_of("cut") / "checkpoints" / "last.ckpt", weights_only=True)
    (group,) = state["optimizer_states"][0]["param_groups"]
    assert (group["momentum"], group["initial_lr"]) == (0.5, 0.01)
    assert state["optimizer_states"][0]["state"]  # the momenta go on
    configs = [
        yaml.safe_load((run_of("cut") / name).read_text()) for name in ("config.1.yaml", "config.yaml")
    ]
    assert [c["model"]["init_args"]["optimizer"]["init_args"]["lr"] for c in configs] == [0.04, 0.01]
    # and from now on without typing it again
    assert call("resume", run_of("cut")) == 0
    assert not (run_of("cut") / "config.2.yaml").exists()


def test_another_run_goes_on_from_the_same_state(whole):
    stop = at(SendSignal, 1, 2)
    assert call("fit", TINY, CASES["epochs"], SAVING, "--run.name cut", stop) == 143
    before = {path: path.read_bytes() for path in run_of("cut").rglob("*") if path.is_file()}
    last = f"--ckpt_path {run_of('cut')}/checkpoints/last.ckpt"
    assert call("fit", TINY, CASES["epochs"], SAVING, last, "--run.name branch") == 0
    assert set(differences(run_of("branch"), whole("epochs"))) <= {"metrics.csv", "points"}
    rows = repeatable(run_of("branch"))
    assert rows[1:] == repeatable(whole("epochs"))[-len(rows) + 1 :]
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_refused_leaves_the_run_as_it_was(capsys):
    assert call("fit", TINY, CASES["epochs"], SAVING, "--run.name cut", at(SendSignal, 1, 2)) == 143
    assert call("fit", TINY, CASES["epochs"], "--run.name other --trainer.max_epochs 1") == 0
    other = run_of("other") / "checkpoints" / "last.ckpt"
    before = {path: path.read_bytes() for path in run_of("cut").rglob("[!.]*") if path.is_file()}
    capsys.readouterr()
    for command, message in (
        (f"resume {run_of('cut')} --model.attention se --trainer.max_epochs 5", "attention 'cbam'"),
        (f"resume {run_of('cut')} --ckpt_path {other}", "--run.name NAME"),
        (
            f"fit --config {run_of('cut')}/config.yaml --ckpt_path {other}",
            f"its own {run_of('cut')}/checkpoints",
        ),
    ):
        assert call(command) == 2
        assert message in capsys.readouterr().err
        assert {path: path.read_bytes() for path in before} == before
        assert not (run_of("cut") / "config.1.yaml").exists()
    assert call("resume", run_of("cut")) == 0


def test_the_same_command_starts_from_a_checkpoint_and_goes_on_from_its_own():
    assert call("fit", TINY, CASES["epochs"], SAVING, "--run.name cut", at(SendSignal, 1, 2)) == 143
    start = f"--ckpt_path {run_of('cut')}/checkpoints/last.ckpt --run.name branch"
    assert call("fit", TINY, CASES["epochs"], SAVING, start, at(SendSignal, 2, 2)) == 143
    stopped_at = torch.load(run_of("branch") / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert call("fit", TINY, CASES["epochs"], SAVING, start) == 0
    steps = [
        int(row["step"])
        for row in csv.DictReader((run_of("branch") / "metrics.csv").open())
        if row["train/loss"]
    ]
    assert steps == sorted({*steps})
    assert stopped_at in steps


def test_a_training_that_has_ended_can_be_lengthened(whole):
    constant = " --model.schedule Constant"  # the others know how long the training is
    for name, epochs in (("short", 1), ("long", 3)):
        options = CASES["epochs"].replace("max_epochs 3", f"max_epochs {epochs}") + constant
        assert call("fit", TINY, options, SAVING, f"--run.name {name}") == 0
    assert call("resume", run_of("short"), "--trainer.max_epochs 3") == 0
    assert differences(run_of("short"), run_of("long")) == []


def test_a_run_that_ended_early_is_not_trained_on_unless_what_ended_it_changes():
    stopping = (
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss "
        "--trainer.callbacks.patience 1 --trainer.callbacks.min_delta 10 --run.name early"
    )
    options = CASES["epochs"].replace("max_epochs 3", "max_epochs 9")

    def epochs():
        return torch.load(run_of("early") / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]

    ends = [run_of("early") / name for name in ("results.json", "divergence.json")]
    fit = ("fit", TINY, options, stopping)
    for number, command in enumerate((fit, fit, ("resume", run_of("early")))):
        assert call(*command) == 0
        assert epochs() == 2
        for path in ends:
            assert path.exists() == (number > 0)
            path.touch()
    assert call("resume", run_of("early"), "--trainer.max_epochs 10") == 0
    assert epochs() == 3
    assert not any(path.exists() for path in ends)  # what was left at the end of the second epoch


def test_a_batch_size_is_searched_for_once(monkeypatch):
    searches = []
    monkeypatch.setattr(BatchSizeFinder, "scale_batch_size", lambda self, *_: searches.append(self))
    options = (
        "--run.test_after_fit true --trainer.limit_train_batches 2 --trainer.max_epochs 1 --run.name once"
    )
    assert call("fit", TINY, options, "--trainer.callbacks+=BatchSizeFinder") == 0
    assert call("resume", run_of("once"), "--trainer.max_epochs 2") == 0
    assert len(searches) == 1  # not before the tests, nor when the run goes on


def test_a_learning_rate_that_was_found_stays():
    finder = "--trainer.callbacks+=LearningRateFinder --trainer.callbacks.num_training_steps 20"
    short = "--run.test_after_fit false --trainer.limit_train_batches 20 --trainer.max_epochs 1"
    assert call("fit", TINY, short, finder, "--run.name once") == 0
    (found,) = last_checkpoint("once")["optimizer_states"][0]["param_groups"]
    assert found["initial_lr"] != 0.1  # as configured
    assert call("resume", run_of("once"), "--trainer.max_epochs 2") == 0
    state = last_checkpoint("once")
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == found["initial_lr"]
    assert state["lr_schedulers"][0]["base_lrs"] == [found["initial_lr"]]


def last_checkpoint(name):
    return torch.load(run_of(name) / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_without_a_checkpoint_begins_anew(whole):
    with pytest.raises(Crash):
        call("fit", TINY, CASES["epochs"], SAVING, "--run.name cut", at(CrashHere, 0, 0))
    assert not (run_of("cut") / "checkpoints" / "last.ckpt").exists()
    assert call("resume", run_of("cut")) == 0
    assert differences(run_of("cut"), whole("epochs")) == []


def test_what_cannot_be_resumed_is_told(tmp_path, capsys):
    assert call("resume", tmp_path) == 2
    assert "is not a run directory: it has no config.yaml" in capsys.readouterr().err
    assert call("resume") == 2
    assert "usage: cbam-lightning resume RUN_DIR" in capsys.readouterr().err
    assert call("resume", "--help") == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("place", [(0, 0, "train"), (1, 4, "train"), (1, 1, "val")], ids=str)
def test_whatever_is_trained_and_wherever(whole, case, place):
    break_off_twice(whole, case, place)
