"""Calling the command from tests, and options of small runs."""

import shlex
from pathlib import Path

import pytest

from cbam_lightning.cli.main import main
from cbam_lightning.cli.trainer import TrainerCLI

# A network that trains in seconds: real images, few steps.
SMALL = "--data FashionMNIST --data.batch_size 64 --model.network resnet20 --model.attention cbam"
SHORT = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.limit_val_batches 2 "
    "--trainer.limit_test_batches 3 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
NO_WANDB = "--wandb.enabled false"


def call(*parts):
    """Run a command line, and return its exit code."""
    return main([word for part in parts for word in shlex.split(str(part))])


def only_run(experiment="default", root="runs"):
    """Return the one run of an experiment."""
    (path,) = Path(root, experiment).iterdir()
    return path


def parsed(words, monkeypatch):
    """Return the parsed options of a trainer command, without running it."""

    class Parsed(Exception):
        pass

    def stop(self):
        raise Parsed(self.config[self.config["subcommand"]])

    monkeypatch.setattr(TrainerCLI, "_parse_ckpt_path", stop)
    with pytest.raises(Parsed) as stopped:
        TrainerCLI(words)
    return stopped.value.args[0]
