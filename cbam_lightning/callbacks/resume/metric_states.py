"""The states of all torchmetrics of a module, which are not in its state dict."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.plain import plain_copy

States = dict[str, dict[str, Any]]  # by the metric's attribute: state and number of updates


def read_metrics(module: LightningModule) -> States:
    """Return copies of the states of all updated metrics, on their own device."""
    return {
        name: {"updates": metric._update_count, "state": metric._copy_state_dict()}
        for name, metric in _metrics(module)
        if metric._update_count
    }


def plain_metrics(states: States) -> States:
    """Return the states that a checkpoint can hold, with a warning about all others."""
    kept = {}
    for name, state in states.items():
        try:
            kept[name] = plain_copy(state)
        except TypeError as error:
            text = f"the state of the metric {name} has a {error}, which is not saved: resuming resets it."
            warnings.warn(text, stacklevel=2)
    return kept


def load_metrics(module: LightningModule, saved: list[States], rank: int, world_size: int) -> None:
    """Restore the metrics' states from a checkpoint.

    Args:
        module: The module with the metrics.
        saved: The states of every former process.
        rank: Rank of this process.
        world_size: Present number of processes.

    Raises:
        UsageError: The number of processes has changed, and a state cannot be redistributed.
    """
    for name, metric in _metrics(module):
        former = [states[name] for states in saved if name in states]
        if not former:
            continue
        if world_size != len(saved):
            _require_shareable(name, metric, len(saved), world_size)
        for state in [states[name] for states in saved[rank::world_size] if name in states]:
            _add(metric, state["state"])
        # a metric without updates warns when it is computed
        metric._update_count = max(state["updates"] for state in former)


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.values(copy_state=False)  # restores the states of metrics that share them
    for name, part in module.named_modules():
        if isinstance(part, Metric):
            yield name, part


def _require_shareable(name: str, metric: Metric, before: int, now: int) -> None:
    if not all(kind in _MERGED for kind in metric._reductions.values()):
        raise UsageError(
            f"the metric {name} cannot be redistributed: the checkpoint was written by {before} processes, "
            f"and there are {now} now. Resume with {before} devices (--trainer.devices)."
        )


def _add(metric: Metric, state: dict[str, Any]) -> None:
    """Add the states of a checkpoint to those of a metric."""
    fresh = not metric._update_count
    for attribute, value in state.items():
        if attribute not in metric._defaults:
            continue
        moved = _to(value, metric.device)
        if not fresh:
            moved = _MERGED[metric._reductions[attribute]](getattr(metric, attribute), moved)
        setattr(metric, attribute, moved)
    metric._computed = None
    metric._update_count = 1


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _joined(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, list) else torch.cat([one, other])


_MERGED: dict[Any, Any] = {
    dim_zero_sum: torch.add,
    dim_zero_max: torch.maximum,
    dim_zero_min: torch.minimum,
    dim_zero_cat: _joined,
}
