"""Networks of the user: by name in Python, in YAML and in checkpoints."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cbam_lightning import create_model, list_models, register_model
from cbam_lightning.errors import UsageError
from cbam_lightning.models import registry
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import Header, save_checkpoint
from tests.command import NO_WANDB, SHORT, call, only_run

MODULE = """
import torch
from torch import nn
from cbam_lightning import register_model


class Tiny(nn.Module):
    def __init__(self, num_classes, in_channels, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, stride=2), nn.BatchNorm2d(width))
        self.body = nn.Conv2d(width, 2 * width, 3)
        self.last = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.last(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


register_model("tiny", Tiny)
"""


class Plain(nn.Module):
    def __init__(self, num_classes, in_channels, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        self.last = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.last(torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    monkeypatch.setattr(registry, "USER_NETWORKS", {})
    monkeypatch.setattr("cbam_lightning.models.factory.USER_NETWORKS", registry.USER_NETWORKS)


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_it_is_built_with_what_it_accepts_and_attention_goes_where_the_pattern_says(images):
    register_model("plain", Plain)
    assert "plain" in list_models()
    torch.manual_seed(0)
    plain = create_model("plain", num_classes=3, width=4).eval()
    torch.manual_seed(0)
    network = create_model("plain", num_classes=3, width=4, attention="cbam", where="conv?").eval()
    assert [name for name, _ in network.named_modules() if name.endswith(".attention")] == [
        "conv1.attention",
        "conv2.attention",
    ]
    network.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(network(images), plain(images))


def test_a_builder_that_knows_attention_gets_it_and_nothing_is_inserted():
    given = {}

    def build(num_classes, attention, attention_options):
        given.update(num_classes=num_classes, attention=attention, options=attention_options)
        return nn.Linear(2, num_classes)

    register_model("native", build)
    network = create_model("native", attention="se", attention_options={"reduction": 2}, num_classes=5)
    assert given == {"num_classes": 5, "attention": "se", "options": {"reduction": 2}}
    assert [name for name, _ in network.named_modules()] == [""]
    with pytest.raises(UsageError, match="unknown native option 'where'"):
        create_model("native", where="x")


def test_mistakes():
    register_model("plain", Plain)
    register_model("plain", Plain)
    for name in ("", "a/b", "resnet20", "plain"):
        with pytest.raises(UsageError, match="it is empty, has a slash or is taken"):
            register_model(name, lambda: nn.Identity())
    with pytest.raises(UsageError, match=r"unknown plain option 'wdth'\. Did you mean 'width'"):
        create_model("plain", wdth=3)
    with pytest.raises(UsageError, match="'where' is not an option of attention; pass it"):
        create_model("plain", attention="cbam", attention_options={"where": "conv1"})
    register_model("wrong", lambda: 3)
    with pytest.raises(UsageError, match="wrong returned a int"):
        create_model("wrong")


def test_a_checkpoint_of_it_opens_once_it_is_registered(tmp_path, images):
    register_model("plain", Plain)
    options = {"where": "conv2", "width": 4}
    network = create_model("plain", attention="se", num_classes=3, **options).eval()
    for value in network.state_dict().values():
        value.normal_()
    path = tmp_path / "plain.safetensors"
    save_checkpoint(path, network.state_dict(), Header("plain", "se", 3, 3, network_options=options))
    assert torch.equal(create_model(weights=path).eval()(images), network(images))
    with pytest.warns(UserWarning, match="classifier is reinitialised"):
        renewed = create_model(weights=path, num_classes=7)
    assert torch.equal(renewed.conv1.weight, network.conv1.weight)
    registry.USER_NETWORKS.clear()
    with pytest.raises(UsageError, match="unknown model 'plain'"):
        create_model(weights=path)


def test_its_backbone_can_be_frozen():
    register_model("plain", Plain)
    model = Classifier("plain", num_classes=3, freeze="backbone")
    trainable = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert trainable == {"last.weight", "last.bias"}


def test_the_command_imports_it_trains_it_and_evaluates_its_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_networks.py").write_text(MODULE)
    options = "--model.network tiny --model.attention cbam --model.network_options.where '[stem, body]'"
    imports = "--imports '[my_networks]'"
    assert call(f"fit --data FashionMNIST {imports} {options}", SHORT, NO_WANDB) == 0
    run = only_run()
    fitted = json.loads((run / "results.json").read_text())["metrics"]
    command = (
        f"test --config {run}/config.yaml --ckpt_path {run}/checkpoints/best.ckpt --run.experiment again"
    )
    assert call(command) == 0
    again = only_run("again")
    assert json.loads((again / "results.json").read_text())["metrics"] == fitted
    assert call(f"fit --data FashionMNIST --imports '[no_such_module]' {options}", SHORT, NO_WANDB) == 2
    assert "no_such_module" in capsys.readouterr().err
