"""The commands that a finished run suggests: how to evaluate, share and use its checkpoint."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import program

# At this size and below, the usual random crops, down to 8 % of an image, leave nothing to recognise.
_SMALL_PX = 64


def short(path: Path) -> str:
    """Return a path for the command line, relative if it is below the current folder."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def evaluating(run: RunDirectory, checkpoint: Path) -> list[str]:
    """Return how to evaluate a checkpoint again."""
    options = f"--config {short(run.config)} --ckpt_path {short(checkpoint)}"
    return ["Evaluate it again:", _command(f"test {options}")]


def sharing(run: RunDirectory, checkpoint: Path, hparams: Mapping[str, Any]) -> list[str]:
    """Return how to make a file to share of a checkpoint, and how to evaluate that.

    Args:
        run: The run.
        checkpoint: Its best checkpoint.
        hparams: Hyperparameters of the task.
    """
    names = [hparams["network"], hparams["attention"], hparams.get("dataset") or ""]
    parts = [name.replace("/", "_").replace(":", "_") for name in names if name and name != "none"]
    shared = shlex.quote("_".join(parts) + ".safetensors")
    return [
        "Make a file to share, and evaluate that:",
        _command(f"weights export {short(checkpoint)} {shared}"),
        _command(f"test --config {short(run.config)} --model.weights {shared}"),
    ]


def detecting(run: RunDirectory, checkpoint: Path) -> list[str]:
    """Return how to detect objects with a checkpoint of a detector."""
    options = f"--config {short(run.config)} --ckpt_path {short(checkpoint)} --data.predict_path YOUR_FOLDER"
    return [
        "Find objects in your own images, and draw them:",
        _command(f"predict {options}"),
        _command(f"explain {short(checkpoint)} --images YOUR_FOLDER --out found"),
    ]


def fine_tuning(checkpoint: Path, hparams: Mapping[str, Any]) -> list[str]:
    """Return how to fine-tune a checkpoint of a classifier on another folder of images."""
    flags = ["--data ImageFolder", "--data.root YOUR_FOLDER", f"--data.in_channels {hparams['in_channels']}"]
    size_px = hparams.get("size_px")
    if size_px:
        flags.append(f"--data.size_px {size_px}")
    for name in ("mean", "std"):
        if hparams.get(name):
            values = ",".join(str(round(value, 6)) for value in hparams[name])
            flags.append(f"--data.{name} '[{values}]'")
    if size_px and size_px <= _SMALL_PX:
        flags.append("--data.crop_scale '[0.5,1]'")
    if hparams.get("channels_last"):
        flags.append("--model.channels_last true")
    flags += ["--data.batch_size 32", "--trainer.max_epochs 15"]
    command = _command(f"fit --model.weights {short(checkpoint)} {' '.join(flags)}")
    return ["Fine-tune it on your own images (one folder per class):", command]


def _command(words: str) -> str:
    return f"  {program('cbam-lightning')} {words}"
