"""A training that is broken off anywhere and resumed ends as if it had not been, to the last bit."""

from pathlib import Path

import pytest
import torch

from cbam_lightning.models.registry import USER_NETWORKS
from tests.command import call
from tests.runs.interrupting import TINY, Crash, CrashHere, DropoutNet, SendSignal, at, differences

EPOCHS = (
    "--run.test_after_fit false --trainer.max_epochs 3 --trainer.limit_train_batches 6 "
    "--trainer.callbacks+=EMA"
)
CASES = {
    "epochs": EPOCHS,
    "steps": EPOCHS.replace("max_epochs 3", "max_epochs -1") + " --trainer.max_steps 15",
    "accumulated": EPOCHS + " --trainer.accumulate_grad_batches 4",
    "validated twice an epoch": EPOCHS + " --trainer.val_check_interval 0.5",
    "validated every second epoch": EPOCHS + " --trainer.check_val_every_n_epoch 2",
    "plateau": EPOCHS
    + " --model.schedule TorchSchedule --model.schedule.scheduler torch.optim.lr_scheduler.ReduceLROnPlateau"
    + " --model.schedule.scheduler.patience 0 --model.schedule.monitor val/loss",
    "milestones": EPOCHS + " --model.schedule MultiStep --model.schedule.milestones_epochs [1,2]",
    "dropout": EPOCHS
    + " --model.network dropout_net --model.attention none"
    + " --model.network_options null",
    "adamw": EPOCHS + " --model.optimizer AdamW --model.optimizer.lr 0.001",
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


@pytest.mark.parametrize("case", ["steps", "accumulated", "plateau", "dropout"])
def test_whatever_is_trained(whole, case):
    break_off_twice(whole, case, (1, 1, "val"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("place", [(0, 0, "train"), (1, 4, "train"), (1, 1, "val")], ids=str)
def test_whatever_is_trained_and_wherever(whole, case, place):
    break_off_twice(whole, case, place)
