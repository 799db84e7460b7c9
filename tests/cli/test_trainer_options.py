"""What a command line sets, and how often it and the checkpoint that it names are read."""

from pathlib import Path

import pytest
import yaml
from lightning_fabric.plugins.io import torch_io
from pytorch_lightning.cli import LightningArgumentParser

from cbam_lightning.cli.trainer_options import given_options
from cbam_lightning.weights import checkpoint
from tests.command import NO_WANDB, SHORT, SMALL, call, only_run, parsed


def test_later_words_and_files_replace_earlier_ones():
    model = {"class_path": "Classifier", "init_args": {"network": "resnet20", "attention": "se"}}
    Path("c.yaml").write_text(yaml.safe_dump({"model": model, "ckpt_path": None}))
    words = ["fit", "--ckpt_path", "a.ckpt", "-c", "c.yaml", "--model.init_args.attention=cbam", "--data"]
    assert given_options(words) == {
        "ckpt_path": None,
        "model": "Classifier",
        "model.network": "resnet20",
        "model.attention": "cbam",
        "data": "",
    }
    assert given_options(["fit", "--config=c.yaml", "--ckpt_path=a.ckpt"])["ckpt_path"] == "a.ckpt"


def test_one_parse_and_one_read_of_the_checkpoint(monkeypatch):
    assert call("fit", SMALL, SHORT, NO_WANDB) == 0
    last = only_run() / "checkpoints" / "last.ckpt"
    reads, parses = [], []
    read, load, parse = checkpoint.read_pickle, torch_io.pl_load, LightningArgumentParser.parse_args

    def note(calls, function):
        return lambda *args, **kwargs: (calls.append(args[0]), function(*args, **kwargs))[1]

    monkeypatch.setattr(checkpoint, "read_pickle", note(reads, read))
    monkeypatch.setattr(torch_io, "pl_load", note(reads, load))
    monkeypatch.setattr(LightningArgumentParser, "parse_args", note(parses, parse))
    short = SHORT.replace("--trainer.max_epochs 1", "--trainer.max_epochs 2")
    for words in ([f"resume {last.parent.parent}"], ["fit", SMALL, f"--ckpt_path {last} --run.name b"]):
        reads.clear()
        parses.clear()
        assert call(*words, short, NO_WANDB, "--run.test_after_fit false") == 0
        assert [Path(path).name for path in reads] == ["last.ckpt"]
        assert len(parses) == len(set(map(id, parses))) == 2  # the whole line, and that of the sub-command


@pytest.mark.parametrize("name", ["1e-3", "#1", "no", "1.10", "lr=0.1"])
def test_the_name_of_a_run_is_the_word_that_was_typed(name, monkeypatch):
    words = ["fit", "--data", "FashionMNIST", "--model.network", "resnet8", f"--run.name={name}"]
    assert parsed(words, monkeypatch)["run"]["name"] == name
