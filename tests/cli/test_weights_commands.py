"""The commands about checkpoints."""

import torch

from cbam_lightning import create_model
from cbam_lightning.weights.checkpoint_registry import list_weights
from tests.command import call


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
