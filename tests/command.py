"""Calling the command from tests, and options of small runs."""

import shlex
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cbam_lightning.callbacks import class_pictures, pictures
from cbam_lightning.cli.main import main
from cbam_lightning.cli.trainer import TrainerCLI

# A network that trains in seconds: real images, few steps.
SMALL = "--data FashionMNIST --data.batch_size 64 --model.network resnet20 --model.attention cbam"
SHORT = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.limit_val_batches 2 "
    "--trainer.limit_test_batches 3 --trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
NO_WANDB = "--wandb.enabled false"


class CoarseFigure(Figure):
    """A figure of few pixels, whose parts are where they happen to be."""

    def __init__(self, *args, layout=None, **options):
        super().__init__(*args, **options)

    def savefig(self, path, **options):
        super().savefig(path, dpi=40)


@contextmanager
def coarse_pictures():
    """Draw the pictures of runs coarsely: half the time of a short run goes into their layout."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (class_pictures, pictures):
            patch.setattr(module, "Figure", CoarseFigure)
        yield


def call(*parts):
    """Run a command line with coarse pictures, and return its exit code."""
    with coarse_pictures():
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
