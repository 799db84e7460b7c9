"""A function that a configuration or checkpoint names in place of a class is never called."""

from pathlib import Path

import pytest
import torch
import yaml

from cbam_lightning.cli.main import main
from cbam_lightning.cli.trainer import TrainerCLI

pytestmark = pytest.mark.filterwarnings("ignore")

# Each leaves a file behind when called.
CALLS = {
    "os.system": {"command": "touch canary"},
    "os.mkdir": {"path": "canary"},
    "subprocess.call": {"args": ["touch", "canary"]},
    "subprocess.Popen": {"args": ["touch", "canary"]},
    "builtins.open": {"file": "canary", "mode": "w"},
    "logging.FileHandler": {"filename": "canary"},
}
PLACES = ["model", "data", "model.optimizer", "model.schedule"]
PLACES += [
    f"trainer.{name}" for name in ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")
]


@pytest.fixture(autouse=True)
def up_to_the_trainer(monkeypatch):
    def stop(self, **kwargs):
        raise SystemExit(0)

    monkeypatch.setattr(TrainerCLI, "instantiate_trainer", stop)


def configuration(place, given):
    model = {"class_path": "Classifier", "init_args": {"network": "resnet20"}}
    config = {"model": model, "data": {"class_path": "FashionMNIST"}, "trainer": {}}
    group, _, name = place.partition(".")
    if not name:
        return config | {group: given}
    inside = model["init_args"] if group == "model" else config[group]
    inside[name] = [given] if name in ("callbacks", "plugins") else given
    return config


def refuse(capsys, *words):
    """Run the command, which must report a mistake and do nothing else."""
    assert main(words) == 2
    assert capsys.readouterr().err.count("cbam-lightning: error: ") == 1
    assert not Path("canary").exists()


def refuse_configuration(capsys, place, options, call):
    text = yaml.safe_dump(configuration(place, {"class_path": call, options: CALLS[call]}))
    Path("c.yaml").write_text(text)
    refuse(capsys, "validate", "--config", "c.yaml")


def refuse_checkpoint(capsys, **values):
    torch.save({"state_dict": {}, "hyper_parameters": {"network": "resnet20", **values}}, "x.ckpt")
    refuse(capsys, "test", "--data", "FashionMNIST", "--ckpt_path", "x.ckpt")


@pytest.mark.parametrize("place", [place for place in PLACES if place != "model.optimizer"])
def test_a_configuration(place, capsys):
    refuse_configuration(capsys, place, "init_args", "os.system")


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", [place for place in PLACES if place != "model.optimizer"])
def test_a_configuration_with_any_call(place, call, capsys):
    refuse_configuration(capsys, place, "dict_kwargs", call)


@pytest.mark.parametrize("call", ["os.system", "os.mkdir", "subprocess.call"])
@pytest.mark.parametrize("options", ["init_args", "dict_kwargs"])
def test_a_configuration_of_the_optimizer(options, call, capsys):
    refuse_configuration(capsys, "model.optimizer", options, call)


@pytest.mark.parametrize("call", ["os.system", "os.mkdir", "subprocess.call"])
def test_a_checkpoint_with_an_optimizer(call, capsys):
    refuse_checkpoint(capsys, optimizer={"class_path": call, "init_args": CALLS[call]})


@pytest.mark.parametrize("call", ["os.system", "subprocess.Popen"])
def test_a_checkpoint_with_a_schedule_or_a_class(call, capsys):
    refuse_checkpoint(capsys, schedule={"class_path": call, "init_args": CALLS[call]})
    refuse_checkpoint(capsys, _class_path=call, **CALLS[call])


def test_a_checkpoint_imports_no_module(monkeypatch, capsys):
    monkeypatch.syspath_prepend(".")
    Path("lying_around.py").write_text("open('canary', 'w')")
    refuse_checkpoint(capsys, _class_path="lying_around.Model")
