"""``test``, ``validate`` and ``predict`` never evaluate random weights, and find the checkpoint of a run."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.test_bad_input import one_line
from tests.cli.test_trainer_errors import QUICK
from tests.command import NO_WANDB, call, only_run

OWN = """
import torch
from cbam_lightning import Classifier

class Plain(Classifier):
    pass

class Loading(Classifier):
    def setup(self, stage):
        super().setup(stage)

class Net(torch.nn.Linear):
    def __init__(self, num_classes: int):
        super().__init__(784, num_classes)
    def forward(self, images):
        return super().forward(images.flatten(1))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a run whose best checkpoint is not its last one."""
    folder = tmp_path_factory.mktemp("trained")
    assert call("fit", QUICK, NO_WANDB, f"--trainer.max_epochs 3 --run.root {folder}") == 0
    return only_run(root=folder)


def evaluated(run, words, command="test"):
    shutil.rmtree("runs", ignore_errors=True)
    assert call(f"{command} --config {run}/config.yaml --run.root runs", words) == 0
    results = json.loads((only_run() / "results.json").read_text())
    return Path(results["checkpoint"]).name if results["checkpoint"] else None


def test_the_checkpoint_of_a_run(trained):
    assert evaluated(trained, "") == "best.ckpt"
    assert evaluated(trained, "--ckpt_path last", "validate") == "last.ckpt"
    saved = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert Path(saved["ckpt_path"]).samefile(trained / "checkpoints" / "last.ckpt")
    assert evaluated(trained, "--model.network null --model.weights resnet20.fashion_mnist") is None


def test_what_the_run_started_from_is_not_evaluated(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["ckpt_path"] = str(trained / "checkpoints" / "last.ckpt")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    (moved / "checkpoints" / "best.ckpt").rename(moved / "checkpoints" / "mine.ckpt")
    state = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    for callback in state["callbacks"].values():
        if "best_model_path" in callback:
            callback["best_model_path"] = str(trained / "checkpoints" / "mine.ckpt")
    torch.save(state, moved / "checkpoints" / "last.ckpt")
    assert evaluated(moved, "") == "mine.ckpt"


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_random_weights_are_refused(command, capsys):
    for words in ("", "--ckpt_path null"):
        assert call(command, QUICK, NO_WANDB, words) == 2
        line = one_line(capsys)
        assert "resnet8 has random weights" in line
        assert "--ckpt_path FILE, --model.weights FILE" in line
    assert not Path("runs").exists()


def test_a_run_that_is_not_named_or_has_no_checkpoint(trained, capsys, tmp_path):
    for command, name in (("test", "best"), ("predict", "last"), ("fit", "last"), ("fit", "best")):
        assert call(command, QUICK, NO_WANDB, f"--ckpt_path {name}") == 2
        assert f"which run's {name} checkpoint is meant" in one_line(capsys)
    moved = shutil.copytree(trained, tmp_path / "moved")
    assert call(f"test --config {trained}/config.yaml --config {moved}/config.yaml") == 2
    assert "which run's best checkpoint is meant" in one_line(capsys)
    (moved / "checkpoints" / "last.ckpt").unlink()
    assert call(f"test --config {moved}/config.yaml --ckpt_path last") == 2
    assert "has no last checkpoint" in one_line(capsys)
    shutil.rmtree(moved / "checkpoints")
    assert call(f"test --config {moved}/config.yaml --run.root runs") == 2
    assert "random weights" in one_line(capsys)


def test_a_checkpoint_that_would_not_be_used_is_refused(trained, capsys):
    assert call(f"resume {trained} --ckpt_path best") == 2
    assert f"resume continues from {trained}/checkpoints/last.ckpt" in one_line(capsys)


def test_a_run_is_resumed_without_the_checkpoint_that_it_started_from(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["ckpt_path"] = str(tmp_path / "gone.ckpt")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    assert call(f"resume {moved} --run.test_after_fit false") == 0
    assert yaml.safe_load((moved / "config.yaml").read_text())["ckpt_path"] == str(tmp_path / "gone.ckpt")


def test_what_may_load_weights_itself_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_loading.py").write_text(OWN)
    words = QUICK.replace("--model.network resnet8", "")
    with pytest.warns(UserWarning, match="no checkpoint and no weights are given: Loading"):
        assert call("test --model own_loading.Loading --model.network resnet8", words, NO_WANDB) == 0
    with pytest.warns(UserWarning, match="no checkpoint and no weights are given: Classifier"):
        assert call("test --model.network own_loading.Net", words, NO_WANDB) == 0
    capsys.readouterr()
    assert call("test --model own_loading.Plain --model.network resnet8", words, NO_WANDB) == 2
    assert "random weights" in one_line(capsys)
    sys.modules.pop("own_loading")
