"""Callbacks that break a training off at a chosen place, and what a training left behind."""

import csv
import json
import os
import resource
import signal
from pathlib import Path

import torch
from pytorch_lightning import Callback
from torch import nn

from cbam_lightning.callbacks.throughput import PEAK, RATE
from tests.command import NO_WANDB

TINY = (
    "--data FashionMNIST --data.batch_size 32 --data.mixup_alpha 0.2 --model.network resnet20 "
    "--model.attention cbam --model.network_options.depths [1,1,1] --model.network_options.widths [8,16,32] "
    "--trainer.limit_val_batches 3 --trainer.limit_test_batches 2 --trainer.log_every_n_steps 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false " + NO_WANDB
)


class DropoutNet(nn.Sequential):
    """A network that draws random numbers in every step."""

    def __init__(self, num_classes=10, in_channels=1):
        layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


class Crash(BaseException):
    """The power is gone."""


class _AtPlace(Callback):
    """Do something once, and not again in the resumed run, at the end of a batch of an epoch."""

    def __init__(self, epoch: int, batch: int, stage: str = "train") -> None:
        self.place = (epoch, batch, stage)
        self.marker = Path(f"done-{type(self).__name__}-{epoch}-{batch}-{stage}")

    def act_once(self, trainer, pl_module):
        if not self.marker.exists():
            self.marker.touch()
            self.act(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, "train") == self.place:
            self.act_once(trainer, pl_module)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        place = (trainer.current_epoch, batch_idx, "val")
        if place == self.place and not trainer.sanity_checking:
            self.act_once(trainer, pl_module)


class SendSignal(_AtPlace):
    """Send this process a signal."""

    def __init__(self, epoch: int, batch: int, stage: str = "train", name: str = "SIGTERM") -> None:
        super().__init__(epoch, batch, stage)
        self.name = name

    def act(self, trainer, pl_module):
        os.kill(os.getpid(), getattr(signal, self.name))


class CrashHere(_AtPlace):
    """End without saving anything."""

    def act(self, trainer, pl_module):
        raise Crash


class LoseTheLoss(_AtPlace):
    """Make the weights, and so the next loss, no numbers."""

    def act(self, trainer, pl_module):
        with torch.no_grad():
            next(pl_module.parameters()).fill_(float("nan"))


class FillTheDisk(_AtPlace):
    """Let no file of this process grow beyond a length, as on a disk that is full."""

    def __init__(self, epoch: int, batch: int, max_bytes: int) -> None:
        super().__init__(epoch, batch)
        self.max_bytes = max_bytes

    def act(self, trainer, pl_module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_bytes, resource.RLIM_INFINITY))


class FreeTheDisk(_AtPlace):
    """Let files grow again."""

    def act(self, trainer, pl_module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def at(cls, epoch, batch, **options):
    """Return the command's words that add one of these callbacks."""
    words = f"--trainer.callbacks+=tests.callbacks.resume.interrupting.{cls.__name__} "
    given = {"epoch": epoch, "batch": batch, **options}
    return words + " ".join(f"--trainer.callbacks.{name} {value}" for name, value in given.items())


def repeatable(run):
    """Return the rows of ``metrics.csv`` without what no two runs have in common."""
    with (run / "metrics.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    kept = [i for i, name in enumerate(names) if name not in (PEAK, RATE)]
    return [[row[i] for i in kept] for row in (names, *rows)]


def differences(one, other):
    """Return what two runs differ in, but for times: names of files and of the checkpoint's entries."""
    rows = [repeatable(run) for run in (one, other) if (run / "metrics.csv").is_file()]
    found = [] if not rows or (len(rows) == 2 and rows[0] == rows[1]) else ["metrics.csv"]
    results = [_results(run / "results.json") for run in (one, other)]
    found += [] if results[0] == results[1] else ["results.json"]
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    for name in states[0].keys() | states[1].keys():
        if name not in ("callbacks", "loops", "hyper_parameters") and not _same(
            *(s.get(name) for s in states)
        ):
            found.append(name)
    survival = [dict(state["callbacks"]["Survival"]) for state in states]
    for state in survival:
        state["callback_metrics"] = {n: v for n, v in state["callback_metrics"].items() if n != RATE}
    return found + [n for n in survival[0] if not _same(survival[0][n], survival[1][n])]


def _results(path):
    return json.loads(path.read_text())["metrics"] if path.is_file() else None


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
