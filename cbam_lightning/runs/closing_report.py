"""The closing lines of a run: the results, where the files are, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.next_steps import evaluating, short
from cbam_lightning.runs.wandb_setup import wandb_lines

_FIRST = ("test/top1", "test/top5", "test/loss", "test/map", "test/map_50", "test/map_75")


def fit_report(run: RunDirectory, trainer: Trainer, module: LightningModule, checkpoint: Path | None) -> str:
    """Return the closing lines of a training run.

    Args:
        run: Where everything was written.
        trainer: Has the metrics of the test, if there was one.
        module: The trained module; its ``next_steps``, if it has that, returns further lines.
        checkpoint: The best checkpoint, if one was written.
    """
    lines = [_results(trainer), f"  run          {short(run.path)}"]
    if checkpoint is None:
        return "\n".join([*lines, "  no checkpoint was written"])
    files = {"checkpoint": checkpoint, "config": run.config, "metrics": run.metrics, "pictures": run.pictures}
    lines += [f"  {name:<13}{short(path)}" for name, path in files.items() if path.exists()]
    lines += [f"  W&B          {line}" for line in wandb_lines(trainer.loggers)]
    next_steps: Any = getattr(module, "next_steps", None)
    lines += evaluating(run, checkpoint) + (next_steps(run, checkpoint) if next_steps else [])
    return "\n".join(lines)


def _results(trainer: Trainer) -> str:
    metrics = trainer.callback_metrics
    first = [key for key in _FIRST if key in metrics]
    others = [key for key in metrics if key.startswith("test") and key not in first]
    shown = [*first, *others[: len(_FIRST)]]
    return ", ".join(f"{key} {float(metrics[key]):.4f}" for key in shown) or "Done."
