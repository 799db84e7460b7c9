"""Averages of ``self.log`` over an unfinished epoch, which Lightning leaves out of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor

Results = dict[str, dict[str, Any]]  # by Lightning's key: options and values

# All that Lightning allows: Python's own or torch's.
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    **{f"torch.{kind}": getattr(torch, kind) for kind in ("mean", "sum", "max", "min")},
    **{f"python.{kind.__name__}": kind for kind in (sum, max, min)},
}
_OPTIONS = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)
_VALUES = ("value", "cumulated_batch_size", "_forward_cache")


class _SavedMetadata(_Metadata):
    """Options of ``self.log``, except for the synchronisation, which its next call sets."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Metadata):
            return NotImplemented
        self.sync = other.sync
        names = (*_OPTIONS, "reduce_fx")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def read_results(trainer: Trainer) -> Results:
    """Return the averages of the epoch so far, as a checkpoint can hold them."""
    logged = trainer.fit_loop.epoch_loop._results
    return {key: _read(metric) for key, metric in logged.items() if not metric.has_reset}


def _read(metric: _ResultMetric) -> dict[str, Any]:
    meta = metric.meta
    (reduction,) = [name for name, function in _REDUCTIONS.items() if function is meta.reduce_fx]
    values = {name: getattr(metric, name, None) for name in _VALUES}
    return {
        "options": {name: getattr(meta, name) for name in _OPTIONS},
        "reduction": reduction,
        "sync": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "updates": metric._update_count,
        "is_tensor": metric.is_tensor,
        "values": {name: value for name, value in values.items() if isinstance(value, Tensor)},
    }


def load_results(trainer: Trainer, saved: list[Results]) -> None:
    """Restore the averages of a checkpoint.

    If there are fewer processes than before, each also takes over those of missing ones.

    Args:
        trainer: The trainer, in the middle of an epoch.
        saved: The averages of every former process.
    """
    logged = trainer.fit_loop.epoch_loop._results
    logged.clear()
    for results in saved[trainer.global_rank :: trainer.world_size]:
        for key, result in results.items():
            metric = _rebuilt(trainer, result)
            if metric is not None:
                logged[key] = _merged(logged[key], metric) if key in logged else metric


def _rebuilt(trainer: Trainer, saved: dict[str, Any]) -> _ResultMetric | None:
    """Return the object that Lightning makes in ``self.log``."""
    module = trainer.lightning_module
    meta = _SavedMetadata(**saved["options"], reduce_fx=_REDUCTIONS[saved["reduction"]])
    shares = saved["sync"] and trainer.world_size > 1
    meta.sync = _Sync(fn=trainer.strategy.reduce, _should=shares, rank_zero_only=saved["rank_zero_only"])
    metric = _ResultMetric(meta, saved["is_tensor"])
    if not metric.is_tensor:
        try:
            metric.value = module.get_submodule(meta.metric_attribute or "")
        except AttributeError:  # the user has removed it
            return None
    for name, value in saved["values"].items():
        setattr(metric, name, value.to(trainer.strategy.root_device))
    metric._update_count = saved["updates"]
    return metric


def _merged(one: _ResultMetric, other: _ResultMetric) -> _ResultMetric:
    if one.is_tensor:
        if one.meta.is_max_reduction or one.meta.is_min_reduction:
            one.value = one.meta.reduce_fx(one.value, other.value)
        else:
            one.value = one.value + other.value
        if one.meta.is_mean_reduction:
            one.cumulated_batch_size = one.cumulated_batch_size + other.cumulated_batch_size
    return one
