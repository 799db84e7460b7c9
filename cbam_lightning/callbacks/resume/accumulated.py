"""State that a run has accumulated and Lightning does not save: metrics, averages, gradients."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from cbam_lightning.callbacks.resume.epoch_results import load_results, read_results
from cbam_lightning.callbacks.resume.metric_states import States, load_metrics, plain_metrics, read_metrics
from cbam_lightning.callbacks.resume.processes import gather
from cbam_lightning.runs.plain import plain_copy


class Accumulated:
    """Reads the accumulated state for a checkpoint.

    An interrupted validation is repeated from the start: during one, the metrics are those from before it.
    """

    def __init__(self) -> None:
        self._before: States | None = None

    def note(self, pl_module: LightningModule) -> None:
        """Keep the states of the metrics at the start of a validation."""
        self._before = read_metrics(pl_module)

    def forget(self) -> None:
        """Free the kept states at the end of the validation."""
        self._before = None

    def read(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the state as a checkpoint can hold it; must be called on all processes."""
        states = read_metrics(pl_module) if self._before is None else self._before
        own = {"metrics": plain_metrics(states), "results": plain_copy(read_results(trainer))}
        return {"processes": gather(trainer, own), "gradients": _gradients(pl_module)}


def load_accumulated(trainer: Trainer, pl_module: LightningModule, saved: dict[str, Any]) -> None:
    """Restore the accumulated state of a checkpoint.

    Args:
        trainer: The trainer of the resumed run.
        pl_module: The trained module.
        saved: The saved state of the callback.

    Raises:
        UsageError: The number of processes has changed, and a metric cannot be redistributed.
    """
    processes = saved["processes"] if "processes" in saved else [_of_older_versions(saved)]
    metrics = [process["metrics"] for process in processes]
    load_metrics(pl_module, metrics, trainer.global_rank, trainer.world_size)
    load_results(trainer, [process["results"] for process in processes])
    for name, parameter in pl_module.named_parameters():
        gradient = saved.get("gradients", {}).get(name)
        parameter.grad = parameter.grad if gradient is None else gradient.to(parameter)


def _gradients(pl_module: LightningModule) -> dict[str, Any]:
    """Return the gradients if the module steps its optimisers itself, perhaps not after every batch."""
    if pl_module.automatic_optimization:
        return {}
    return {n: plain_copy(p.grad) for n, p in pl_module.named_parameters() if p.grad is not None}


def _of_older_versions(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the state saved by version 0.1, which has only the counts of a classifier's accuracy."""
    states = {
        f"train_metrics.{name.removeprefix('train/')}": {"updates": 1, "state": state}
        for name, state in saved.get("train_metrics", {}).items()
    }
    return {"metrics": states, "results": {}}
