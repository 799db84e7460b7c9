"""A pickle that would run code is refused by everything that takes a file, and its code does not run."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.pretrained import open_checkpoint
from cbam_lightning.models.weight_import import import_weights
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import load_checkpoint, read_state_dict, read_training_state
from experiments.shipping.registering import make_entry
from tests.command import NO_WANDB, SHORT, SMALL, call

# torch has its say on pickles of other protocols than its own
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")

FUNCTIONS = {
    "load_checkpoint": load_checkpoint,
    "read_training_state": read_training_state,
    "read_state_dict": read_state_dict,
    "import_weights": lambda path: import_weights(path, "out.safetensors"),
    "import_weights of a named network": lambda path: import_weights(
        path, "out.safetensors", network="torchvision/resnet18"
    ),
    "open_checkpoint": open_checkpoint,
    "create_model": lambda path: create_model(weights=path),
    "create_model, not strict": lambda path: create_model(
        "resnet20", weights=path, num_classes=3, strict_weights=False
    ),
    "Classifier": lambda path: Classifier(weights=str(path)),
    "make_entry": lambda path: make_entry(path, licence="MIT", command="x"),
}
RUN = f"{SMALL} {SHORT} {NO_WANDB}"
COMMANDS = [
    f"fit {RUN} --model.weights {{}}",
    f"fit {RUN} --ckpt_path {{}}",
    f"validate {RUN} --ckpt_path {{}}",
    f"test {RUN} --ckpt_path {{}}",
    f"test {RUN} --model.weights {{}}",
    f"predict {RUN} --ckpt_path {{}}",
    "weights show {}",
    "weights verify {}",
    "weights import {} out.safetensors",
    "weights import {} out.safetensors --network torchvision/resnet18",
    "weights export {} out.safetensors",
    "export {} --to onnx",
]
NAMES = ["evil.ckpt", "evil.pth.tar", "evil.pt", "evil.bin", "evil.safetensors"]


class MakeFolder:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def contents(evil):
    """The places of a file in which the object may stand."""
    plain = {"network": "resnet20", "attention": "none", "num_classes": 3, "in_channels": 3}
    good = {"network.fc.weight": torch.ones(3, 64)}
    return {
        "alone": evil,
        "beside": {"state_dict": good, "hyper_parameters": plain, "x": evil},
        "in state_dict": {"state_dict": good | {"network.fc.bias": evil}, "hyper_parameters": plain},
        "in hyper_parameters": {"state_dict": good, "hyper_parameters": plain | {"x": evil}},
        "in a bare state dict": {"conv1.weight": torch.ones(1), "bn1.weight": evil},
        "as a key": {"state_dict": good, "hyper_parameters": {(evil,): 1}},
    }


PLACES = sorted(contents(None))


def write(path, marker, place, way):
    content = contents(MakeFolder(marker))[place]
    if way == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "zip")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("place", PLACES)
def test_no_function_runs_the_code(tmp_path, marker, place, way):
    for name in NAMES:
        path = tmp_path / name
        write(path, marker, place, way)
        for function in FUNCTIONS.values():
            with pytest.raises(UsageError) as caught:
                function(path)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
            assert "weights_only" not in str(caught.value)
            assert not marker.exists()
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("place", PLACES)
def test_the_file_is_dangerous_indeed(tmp_path, marker, place, way):
    write(tmp_path / "evil.pt", marker, place, way)
    if way == "pickle":
        pickle.loads((tmp_path / "evil.pt").read_bytes())
    else:
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_reason_is_named(tmp_path, marker, function):
    write(tmp_path / "evil.ckpt", marker, "in state_dict", "zip")
    with pytest.raises(UsageError, match=r"evil.ckpt.* is refused: it holds Python objects \(posix.mkdir\)"):
        FUNCTIONS[function](tmp_path / "evil.ckpt")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["evil.ckpt", "evil.safetensors"])
def test_no_command_runs_the_code(tmp_path, marker, capsys, command, name):
    write(tmp_path / name, marker, "in state_dict", "zip")
    assert call(command.format(tmp_path / name)) == 2
    text = capsys.readouterr().err
    line = text.splitlines()[-1]
    assert name in line
    assert "is refused: it holds Python objects (posix.mkdir)" in line or "truncated or damaged" in line
    assert "Traceback" not in text
    assert not marker.exists()
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if "show" in command or "import" in command]
)
@pytest.mark.parametrize("way", ["legacy", "pickle"])
@pytest.mark.parametrize("name", NAMES[1:4])
def test_no_command_runs_the_code_of_an_older_format(tmp_path, marker, command, way, name):
    write(tmp_path / name, marker, "in state_dict", way)
    assert call(command.format(tmp_path / name)) == 2
    assert not marker.exists()
