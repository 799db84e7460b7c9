"""The closing lines of a run: where things are, and what to type next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from cbam_lightning.models.detection.registry import DETECTORS
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.programs import program
from cbam_lightning.runs.wandb_setup import wandb_lines

_FIRST = ("test/top1", "test/top5", "test/loss", "test/map", "test/map_50", "test/map_75")
# Below this size the usual crops, down to 8 % of an image, leave nothing to recognise.
_SMALL_PX = 64


def fit_report(run: RunDirectory, trainer: Trainer, module: LightningModule, checkpoint: Path | None) -> str:
    """Return the closing lines of a training.

    Args:
        run: Where everything was written.
        trainer: Has the figures of the test, if there was one.
        module: What was trained.
        checkpoint: The best checkpoint, if one was written.
    """
    lines = [_figures(trainer), f"  run          {_short(run.path)}"]
    if checkpoint is None:
        return "\n".join([*lines, "  no checkpoint was written"])
    command, best, config = program("cbam-lightning"), _short(checkpoint), _short(run.config)
    lines += [f"  checkpoint   {best}", f"  config       {config}", f"  metrics      {_short(run.metrics)}"]
    if run.pictures.is_dir():
        lines.append(f"  pictures     {_short(run.pictures)}")
    lines += [f"  W&B          {line}" for line in wandb_lines(trainer.loggers)]
    lines += ["Evaluate it again:", f"  {command} test --config {config} --ckpt_path {best}"]
    if "network" not in module.hparams:
        return "\n".join(lines)
    shared = shlex.quote(_export_name(module))
    lines += [
        "Make a file to share, and evaluate that:",
        f"  {command} weights export {best} {shared}",
        f"  {command} test --config {config} --model.weights {shared}",
    ]
    if module.hparams["network"] in DETECTORS:
        predict = f"{command} predict --config {config} --ckpt_path {best} --data.predict_path YOUR_FOLDER"
        draw = f"{command} explain {best} --images YOUR_FOLDER --out found"
        lines += ["Find objects in your own images, and draw them:", f"  {predict}", f"  {draw}"]
    else:
        fit = f"{command} fit --model.weights {best} {_data_flags(module.hparams)}"
        lines += ["Fine-tune it on your own images (one folder a class):", f"  {fit}"]
    return "\n".join(lines)


def _figures(trainer: Trainer) -> str:
    metrics = trainer.callback_metrics
    first = [key for key in _FIRST if key in metrics]
    others = [key for key in metrics if key.startswith("test") and key not in first]
    shown = [*first, *others[: len(_FIRST)]]
    return ", ".join(f"{key} {float(metrics[key]):.4f}" for key in shown) or "Done."


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def _export_name(module: LightningModule) -> str:
    names = [module.hparams["network"], module.hparams["attention"], module.hparams.get("dataset") or ""]
    return (
        "_".join(n.replace("/", "_").replace(":", "_") for n in names if n and n != "none") + ".safetensors"
    )


def _data_flags(hparams: Any) -> str:
    """Say how another folder of images has to be read to suit this network."""
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
    return " ".join([*flags, "--data.batch_size 32", "--trainer.max_epochs 15"])
