"""The commands about networks, as given on the command line."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from cbam_lightning.attention import registry
from cbam_lightning.weights import load_checkpoint
from tests.command import NO_WANDB, SHORT, call, only_run

ALL_COMMANDS = ("models", "table", "weights", "data", "export", "benchmark")


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_help_ends_well(command, capsys):
    assert call(f"{command} --help") == 0
    assert capsys.readouterr().out.startswith(f"usage: cbam-lightning {command}")


def test_a_reader_that_has_seen_enough_gets_no_error():
    command = f"{sys.executable} -m cbam_lightning models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mobilenet_v1 ")
    assert done.stderr == ""


def test_models_lists_every_attention_with_its_options(capsys, monkeypatch):
    monkeypatch.setattr(registry, "_ATTENTION", dict(registry._ATTENTION))
    registry.register_attention("mine", placement="stage")(Mine)
    assert call("models --attention") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == registry.list_attention()
    found = next(index for index, line in enumerate(lines) if line.startswith("eca "))
    assert re.match(r"eca +block  ECA, a channel gate: x \* sigmoid", lines[found])
    assert lines[found + 1].split() == ["beta,", "gamma,", "gate,", "kernel_size"]
    assert [line.split() for line in lines if line.startswith("mine")] == [["mine", "stage"]]


class Mine(nn.Module):
    def __init__(self, channels):
        super().__init__()


def test_models_lists_those_of_the_libraries(capsys):
    assert call("models 'torchvision/resne*'") == 0
    names = capsys.readouterr().out.split()
    assert {"torchvision/resnet18", "torchvision/resnext50_32x4d"} <= set(names)
    assert all(name.startswith("torchvision/resne") for name in names)
    assert call("models 'torchvision/swin*'") == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--places", ["layer1.0.bn2    64 channels    56 x 56  residual", "layer4.1.bn2"]),
        ("--where stage", ["layer1", "layer4", "stage"]),
        ("--where 'layer3.*.conv1' layer4", ["layer3.0.conv1", "layer3.1.conv1", "layer4", "pattern"]),
    ],
)
def test_models_tells_where_attention_would_go(options, expected, capsys):
    assert call(f"models torchvision/resnet18 {options}") == 0
    text = capsys.readouterr().out
    squeezed = " ".join(text.split())
    for part in expected:
        assert " ".join(part.split()) in squeezed


def test_the_table_counts_further_networks(capsys):
    assert call("table torchvision/resnet18 --attention none se --size-px 64 --format csv") == 0
    rows = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["table"] == "added"]
    assert [(row["network"], row["attention"]) for row in rows] == [
        ("torchvision/resnet18", "none"),
        ("torchvision/resnet18", "se"),
    ]
    # https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
    assert float(rows[0]["params_m"]) == pytest.approx(11.689512, abs=1e-6)
    added = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 64, 128, 128, 256, 256, 512, 512))
    assert float(rows[1]["params_m"]) == pytest.approx(11.689512 + added / 1e6, abs=1e-6)
    assert call("table --format xml") == 2
    assert "unknown format 'xml'" in capsys.readouterr().err


def test_a_network_of_torchvision_trains_with_inserted_attention(tmp_path):
    options = (
        "--data FashionMNIST --data.batch_size 16 --model.network torchvision/shufflenet_v2_x0_5 "
        "--model.attention cbam --model.network_options.where stage2.? --model.attention_options.reduction 4"
    )
    assert call(f"fit {options}", SHORT, NO_WANDB) == 0
    run = only_run()
    out = tmp_path / "shared.safetensors"
    assert call(f"weights export {run} {out}") == 0
    checkpoint = load_checkpoint(out)
    attended = {key.split(".attention.")[0] for key in checkpoint.state_dict if ".attention." in key}
    assert attended == {f"stage2.{block}" for block in range(4)}
    trained = json.loads((run / "results.json").read_text())["metrics"]
    assert call(f"test --config {run}/config.yaml --model.weights {out} --run.experiment again") == 0
    again = json.loads((only_run("again") / "results.json").read_text())["metrics"]
    assert again == trained


def test_help_and_readme_tell_the_same_of_insertion(capsys):
    """Six kinds of networks, and what insertion does with each."""
    assert call("models --help") == 0
    in_help = re.findall(
        r"^ +(\S.*?\S) {2,}(\S.*)$", capsys.readouterr().out.partition("positional")[0], re.M
    )
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    in_readme = re.findall(r"^\| (.*) \| (.*) \|$", readme.partition("| gets attention |")[2], re.M)[:6]
    assert len(in_help) == 6
    assert in_help == in_readme
