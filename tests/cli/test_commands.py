"""The commands beside training, as they are typed."""

import csv
import io
import json
import subprocess
import sys

import pytest
import torch

from cbam_lightning import create_model
from cbam_lightning.weights import load_checkpoint
from cbam_lightning.weights.checkpoint_registry import list_weights
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


def test_every_registered_checkpoint_is_whole_and_described(capsys):
    assert call("weights list") == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == set(list_weights())
    assert call("weights show resnet20.fashion_mnist") == 0
    text = capsys.readouterr().out
    for part in ("sha256", "MIT", "Ankle boot", "test/top1=0.9384"):
        assert part in text
    assert call("weights list nothing*") == 2


def test_weights_of_other_code_are_imported(tmp_path, capsys):
    torch.manual_seed(0)
    plain = create_model("resnet18", num_classes=5).eval()
    file, out = tmp_path / "theirs.pth.tar", tmp_path / "ours.safetensors"
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}, "epoch": 3}, file)
    assert call(f"weights import {file} {out} --dataset flowers") == 0
    text = capsys.readouterr().out
    assert "matched 122" in text
    assert "flowers" in text
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(create_model(weights=out).eval()(images), plain(images))
    assert call(f"weights import {file} {out}") == 2
    assert "exists" in capsys.readouterr().err


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
