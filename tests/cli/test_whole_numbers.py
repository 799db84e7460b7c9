"""A whole number of batches stays whole: to Lightning, 1 is one batch and 1.0 all of them."""

from pathlib import Path
from typing import Union

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser

from cbam_lightning.cli.whole_numbers import read_whole_numbers_first
from tests.cli.test_trainer_errors import QUICK
from tests.command import NO_WANDB, call, only_run, parsed

LIMITS = [f"limit_{kind}_batches" for kind in ("train", "val", "test", "predict")]
OPTIONS = [*LIMITS, "overfit_batches", "val_check_interval"]


@pytest.mark.parametrize("value", [1, 1.0, 0.5, 3])
def test_of_the_command_line_and_of_a_file(value, monkeypatch):
    words = [f"--trainer.{option}={value}" for option in OPTIONS]
    Path("numbers.yaml").write_text(f"trainer: {{{', '.join(f'{option}: {value}' for option in OPTIONS)}}}")
    for given in (words, ["--config", "numbers.yaml"]):
        trainer = parsed(
            ["fit", "--data=FashionMNIST", "--model.network=resnet8", *given], monkeypatch
        ).trainer
        found = {option: trainer[option] for option in OPTIONS}
        assert found == dict.fromkeys(OPTIONS, value)
        assert {type(number) for number in found.values()} == {type(value)}


def test_the_order_of_the_types_does_not_count():
    parser = LightningArgumentParser()
    hints = {"a": Union[float, int, None], "c": Union[float, str, int]}  # noqa: UP007
    for name, hint in hints.items():
        parser.add_argument(f"--{name}", type=hint)
    read_whole_numbers_first(parser)
    for text, kind in (("1", int), ("1.0", float)):
        values = parser.parse_args([f"--{name}={text}" for name in hints])
        assert [type(values[name]) for name in "a"] == [kind]
    assert type(parser.parse_args(["--c=1"]).c) is int
    assert type(parser.parse_args(["--c=1.0"]).c) is float


class OwnCallback(Callback):
    """A callback of a user with numbers of both kinds."""

    def __init__(self, count: Union[float, int] = 0.5, counts: list[Union[float, int]] = [1]):  # noqa: B006, UP007
        self.counts = [count, *counts]


def test_the_options_of_a_named_class(monkeypatch):
    words = [f"--trainer.callbacks={__name__}.OwnCallback", "--trainer.callbacks.count=1"]
    words += ["--trainer.callbacks.counts=[1,1.0]", "--data=FashionMNIST", "--model.network=resnet8"]
    (callback,) = parsed(["fit", *words], monkeypatch).trainer.callbacks
    options = callback.init_args
    assert [type(number) for number in (options.count, *options.counts)] == [int, int, float]


def test_one_batch_is_trained_and_evaluated():
    one = QUICK.replace("batches 2", "batches 1")
    assert call("fit", one, NO_WANDB, "--trainer.max_epochs 2") == 0
    metrics = (only_run() / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in metrics[1:]] == ["0", "0", "1", "1"]  # optimiser steps
