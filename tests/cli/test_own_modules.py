"""Any LightningModule with any data module, from the command; and one line for what does not fit."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.test_bad_input import one_line
from tests.command import NO_WANDB, SHORT, call, only_run

BORING = "pytorch_lightning.demos.boring_classes."
FEW = "--trainer.limit_train_batches 4 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"


def test_the_boring_module_runs_through_fit_resume_and_test(capsys):
    words = f"--model {BORING}BoringModel --data {BORING}BoringDataModule"
    assert call(f"fit {words} --trainer.max_epochs 1", FEW, QUIET) == 0  # with W&B, offline
    run = only_run()
    told = capsys.readouterr().out
    assert "Evaluate it again:" in told
    assert "weights export" not in told
    assert list((run / "wandb").glob("offline-run-*"))
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert call(f"resume {run} --trainer.max_epochs 3") == 0
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (first["global_step"], last["global_step"]) == (4, 12)
    for command in ("test", "validate", "predict"):
        evaluate = f"{command} --config {run}/config.yaml --ckpt_path {run}/checkpoints/best.ckpt"
        assert call(evaluate, NO_WANDB, "--run.experiment", command) == 0
    assert json.loads((only_run("test") / "results.json").read_text())["stage"] == "test"
    predicted = torch.load(only_run("predict") / "predictions.pt", weights_only=True)
    assert predicted[0].shape == (1, 2)


OWN = """
import torch
from torch import nn
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import Metric
from cbam_lightning import Classifier

class Data(LightningDataModule):
    def __init__(self, shift: int = 0):
        super().__init__()
        self.shift = shift
    def train_dataloader(self):
        return DataLoader([(torch.rand(1, 28, 28), i % 3 + self.shift) for i in range(32)], batch_size=8)
    test_dataloader = val_dataloader = train_dataloader

class Items(Dataset):
    def __init__(self, kind: str = "pairs"):
        self.kind = kind
    def __len__(self):
        return 24
    def __getitem__(self, index):
        image = torch.zeros(1, 28 + (index if self.kind == "sizes" else 0), 28, dtype=torch.uint8)
        label = index % 3 + (9 if self.kind == "labels" and index == 5 else 0)
        if self.kind == "raises" and index == 7:
            raise KeyError("no such row")
        return image if self.kind == "images" else (image, label)

class NoChannels(nn.Module):
    def __init__(self, inp):
        super().__init__()

class Halves(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        return x[:, ::2]

class Stumbles(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        raise ValueError("a tensor too many")

class Vector(Classifier):
    def loss(self, logits, batch):
        return logits.sum(1)

class Wants(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("seen", torch.zeros(()), "sum")
    def update(self, probabilities, labels):
        if probabilities.min() < 0:
            raise ValueError("probabilities are needed")
    def compute(self):
        return self.seen

class Unfinished(LightningModule):
    def training_step(self, batch, batch_idx):
        return self.net(batch)
    def configure_optimizers(self):
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
"""
CLOTHES = "--data FashionMNIST --model.network resnet8"
PLAIN = "--data own.Data --model.network resnet8 --model.in_channels 1"
ITEMS = (
    "--model.network resnet8 --data TorchDataset --data.in_channels 1 --data.batch_size 8 "
    "--data.train own.Items"
)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.py").write_text(OWN)
    yield
    sys.modules.pop("own", None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"{CLOTHES} --model.attention own.NoChannels", ["'own.NoChannels' takes (inp)", "called channels"]),
        (f"{CLOTHES} --model.attention own.Halves", ["(2, 16, 8, 8) into (2, 8, 8, 8)"]),
        (f"{CLOTHES} --model.attention own.Stumbles", ["own.py, line", "ValueError: a tensor too many"]),
        (f"{CLOTHES} --model.attention own.Nothing", ["--model.attention is 'own.Nothing'", "own.py"]),
        (f"{CLOTHES} --model.attention nowhere.A", ["--model.attention", "no module 'nowhere'"]),
        (f"{CLOTHES} --model.network own.Items", ["the network 'own.Items' is not a torch.nn.Module"]),
        (f"{CLOTHES} --model own.Nothing", ["--model is 'own.Nothing'", "no 'Nothing'", "own.py"]),
        (f"{CLOTHES} --model own.Items", ["--model is 'own.Items', which is not a LightningModule"]),
        (
            f"{CLOTHES} --model own.Vector",
            ["Vector.loss in", "own.py", "shape (128,)", "mean over"],
        ),
        (f"{CLOTHES} --model.metrics+=own.Wants", ["the metric 'Wants'", "probabilities are needed"]),
        ("--data FashionMNIST --model own.Unfinished", ["own.py, line", "AttributeError", "'net'"]),
        (PLAIN, ["Data has no attribute num_classes", "--model.num_classes"]),
        (f"{PLAIN} --model.num_classes 2", ["Data gives the label 2", "2 classes"]),
        (f"{PLAIN} --model.num_classes 3 --data.shift -1", ["Data gives the label -1"]),
        (f"{ITEMS} --data.train.kind images", ["own.Items", "label"]),
        (f"{ITEMS} --data.train.kind labels --data.num_classes 3", ["own.Items", "item 5", "11"]),
        (f"{ITEMS} --data.train.kind sizes", ["own.Items", "28"]),
        (f"{ITEMS} --data.train.kind raises --data.num_workers 0", ["own.Items", "item 7", "no such row"]),
        (f"{ITEMS} --data.train.kind raises --data.num_workers 1", ["item 7", "no such row", "own.py"]),
        (f"{ITEMS} --data.train own.Nothing", ["own.Nothing", "own.py"]),
    ],
)
def test_one_line_and_nothing_left_behind(own, words, expected, capsys):
    assert call("fit", words, SHORT, NO_WANDB) == 2
    line = one_line(capsys)
    assert all(part in line for part in expected), line
    assert not list(Path().glob("runs/*/*"))


def test_what_is_typed_stands_for_what_plain_data_do_not_say(own):
    words = f"{PLAIN} --model.num_classes 3 --model.in_channels 1"
    assert call("fit", words, SHORT, NO_WANDB) == 0
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert config["model"]["init_args"]["num_classes"] == 3
