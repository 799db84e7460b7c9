"""What a training has accumulated at a moment, beside what Lightning saves: metrics, averages, gradients."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from cbam_lightning.callbacks.resume.epoch_results import load_results, read_results
from cbam_lightning.callbacks.resume.metric_states import States, load_metrics, plain_metrics, read_metrics
from cbam_lightning.callbacks.resume.processes import gather
from cbam_lightning.runs.plain import plain_copy


class Accumulated:
    """Reads it for a checkpoint, and sets it back.

    A validation that is broken off begins again: while one is under way, the metrics are those of before.
    """

    def __init__(self) -> None:
        self._before: States | None = None

    def note(self, pl_module: LightningModule) -> None:
        """Keep the states of the metrics, as a validation begins."""
        self._before = read_metrics(pl_module)

    def forget(self) -> None:
        """Free what was kept, when the validation is over."""
        self._before = None

    def read(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return everything as a checkpoint can hold it; all processes have to come here."""
        states = read_metrics(pl_module) if self._before is None else self._before
        mine = {"metrics": plain_metrics(states), "results": plain_copy(read_results(trainer))}
        return {"processes": gather(trainer, mine), "gradients": _gradients(pl_module)}


def load_accumulated(trainer: Trainer, pl_module: LightningModule, saved: dict[str, Any]) -> None:
    """Set everything to what it was in a checkpoint.

    Args:
        trainer: Of the training that goes on.
        pl_module: What is trained.
        saved: State of the callback that was saved.

    Raises:
        UsageError: There are more or fewer processes than before, and a metric cannot be shared out anew.
    """
    processes = saved["processes"] if "processes" in saved else [_of_older_versions(saved)]
    metrics = [process["metrics"] for process in processes]
    load_metrics(pl_module, metrics, trainer.global_rank, trainer.world_size)
    load_results(trainer, [process["results"] for process in processes])
    for name, parameter in pl_module.named_parameters():
        gradient = saved.get("gradients", {}).get(name)
        parameter.grad = parameter.grad if gradient is None else gradient.to(parameter)


def _gradients(pl_module: LightningModule) -> dict[str, Any]:
    """Return the gradients of a module that steps its optimisers itself, perhaps not after every batch."""
    if pl_module.automatic_optimization:
        return {}
    return {n: plain_copy(p.grad) for n, p in pl_module.named_parameters() if p.grad is not None}


def _of_older_versions(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the counts that version 0.1 kept, of a classifier's accuracy only."""
    states = {
        f"train_metrics.{name.removeprefix('train/')}": {"updates": 1, "state": state}
        for name, state in saved.get("train_metrics", {}).items()
    }
    return {"metrics": states, "results": {}}
