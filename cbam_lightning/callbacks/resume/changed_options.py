"""Options of optimisers and schedules that the user changes when a run is resumed: what is typed wins."""

from __future__ import annotations

import warnings
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cbam_lightning.errors import UsageError
from cbam_lightning.optim.place import steps_per_epoch
from cbam_lightning.optim.schedules import FactorLR
from cbam_lightning.runs.plain import plain_copy

Configured = dict[str, Any]


def read_configured(trainer: Trainer, pl_module: LightningModule) -> Configured:
    """Return how optimisers and schedules are configured, before training or a checkpoint changes them."""
    names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
    configs = trainer.lr_scheduler_configs
    return {
        "optimizers": [_described(optimizer, names) for optimizer in trainer.optimizers],
        "schedules": [_schedule(config) for config in configs],
        "steps_per_epoch": steps_per_epoch(trainer) if any(map(_counts_steps, configs)) else None,
    }


def _described(optimizer: Optimizer, names: dict[int, str]) -> dict[str, Any]:
    groups = optimizer.param_groups
    return {
        "class": type(optimizer).__name__,
        "parameters": [[names.get(id(parameter), "") for parameter in group["params"]] for group in groups],
        "groups": [_options(group) for group in groups],
    }


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a parameter group, with the peak of the learning rate."""
    return _plain({**group, "params": None, "lr": float(group.get("initial_lr", group["lr"]))})


def _schedule(config: LRSchedulerConfig) -> dict[str, Any]:
    scheduler = config.scheduler
    state = {} if isinstance(scheduler, FactorLR) else _plain(scheduler.state_dict())
    described = {"class": type(scheduler).__name__, "state": state}
    return {**described, "interval": str(config.interval), "frequency": config.frequency}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a checkpoint can hold."""
    kept = {}
    for key, value in values.items():
        try:
            kept[key] = plain_copy(value)
        except TypeError:
            continue
    return kept


def _counts_steps(config: LRSchedulerConfig) -> bool:
    return config.interval == "step" and not isinstance(config.scheduler, (FactorLR, ReduceLROnPlateau))


class ChangedOptions:
    """What the user has changed since a checkpoint was written.

    Make it when optimisers and schedules are configured and their states are not loaded: it removes those
    that do not fit. Call ``apply`` when the others are loaded.

    Args:
        trainer: The trainer.
        checkpoint: The checkpoint.
        before: What ``read_configured`` returned in the run that wrote it; ``None`` in older versions.
        now: What it returns in this run.
        epochs: The place of the checkpoint in the training.

    Raises:
        UsageError: A schedule has no learning rate at this place.
    """

    def __init__(
        self,
        trainer: Trainer,
        checkpoint: dict[str, Any],
        before: Configured | None,
        now: Configured,
        epochs: float,
    ) -> None:
        self.trainer, self.now = trainer, now
        self.before = before or _before(checkpoint, now)
        kinds = [[schedule["class"] for schedule in each["schedules"]] for each in (self.before, now)]
        # a plateau goes on with what it has seen of the metrics, and with its reductions
        keeps_seen = kinds[0] == kinds[1] and ReduceLROnPlateau.__name__ in kinds[1]
        self._reduced = 1.0
        starts_anew = _forms(self.before) != _forms(now)
        if starts_anew:
            _tell_of_a_new_optimizer(self.before, now)
            self._reduced = _reduction(checkpoint, self.before) if keeps_seen else 1.0
            checkpoint["optimizer_states"] = []
            self.before = {**self.before, "optimizers": now["optimizers"]}
        changes = starts_anew or self.before["schedules"] != now["schedules"]
        self._reschedules = changes and not keeps_seen
        if self._reschedules:
            checkpoint["lr_schedulers"] = []
        self._advanced = self._advance(epochs) if self._reschedules else None
        if not changes and self.before["steps_per_epoch"] != now["steps_per_epoch"]:
            self._tell_of_other_steps()

    def _advance(self, epochs: float) -> list[list[dict[str, Any]]]:
        """Step the new schedules to a place, and return the options of the parameter groups there."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, (FactorLR, ReduceLROnPlateau)):
                continue  # the one follows the place, the other the metrics
            steps = round(epochs * self.now["steps_per_epoch"]) if _counts_steps(config) else int(epochs)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it is stepped before the optimiser
                    for _ in range(steps // config.frequency):
                        config.scheduler.step()
            except ValueError as error:
                raise UsageError(f"{type(config.scheduler).__name__}: {error}") from None
        groups = [optimizer.param_groups for optimizer in self.trainer.optimizers]
        return [[{**group, "params": None} for group in each] for each in groups]

    def _tell_of_other_steps(self) -> None:
        steps, former = self.now["steps_per_epoch"], self.before["steps_per_epoch"]
        rank_zero_warn(
            f"{self.now['schedules'][0]['class']} changes the learning rate after every step, and an epoch "
            f"has {steps:g} steps, before {former:g}: it goes on counting steps. Give its options in the new "
            "steps, or use WarmupCosine or MultiStep, which count epochs."
        )

    def apply(self) -> None:
        """Change the options of the optimisers and schedules, now that their states are loaded."""
        for number, optimizer in enumerate(self.trainer.optimizers):
            befores, nows = (each["optimizers"][number]["groups"] for each in (self.before, self.now))
            for position, (group, now) in enumerate(zip(optimizer.param_groups, nows, strict=False)):
                advanced = None if self._advanced is None else self._advanced[number][position]
                _change(group, befores[position], now, advanced)
                group["lr"] *= self._reduced
            for group in optimizer.param_groups[len(nows) :]:  # of a callback, from another optimiser
                group.update({key: value for key, value in optimizer.defaults.items() if key not in group})
        schedules = zip(self.before["schedules"], self.now["schedules"], strict=False)
        for config, (before, now) in zip(self.trainer.lr_scheduler_configs, schedules, strict=False):
            self._change_schedule(config.scheduler, before["state"], now["state"])

    def _change_schedule(self, scheduler: Any, before: dict[str, Any], now: dict[str, Any]) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            changed = {} if self._reschedules else now
            scheduler.__dict__.update({key: v for key, v in changed.items() if v != before.get(key)})
            return
        if self._reschedules or self.before["optimizers"] != self.now["optimizers"]:
            peaks = [group.get("initial_lr", group["lr"]) for group in scheduler.optimizer.param_groups]
            scheduler.base_lrs[:] = peaks[: len(scheduler.base_lrs)]
        if isinstance(scheduler, FactorLR):
            scheduler.correct_rates()


def _change(
    group: dict[str, Any], before: dict[str, Any], now: dict[str, Any], advanced: dict[str, Any] | None
) -> None:
    """Change the options of a parameter group.

    Args:
        group: Its options as loaded; changed in place.
        before: As they were configured in the run that wrote the checkpoint.
        now: As they are configured now.
        advanced: As they are at the present place of a changed schedule.
    """
    peak = before["lr"] or 1.0  # a peak of 0 has no ratio
    # a search may have found another peak than the configured one
    found = group.get("initial_lr", before["lr"]) / peak
    changed = {key: value for key, value in now.items() if value != before.get(key)}
    rates = {"lr": group["lr"] * now["lr"] / peak, "initial_lr": now["lr"] * found}
    if advanced is not None:
        changed, rates["lr"] = advanced, advanced["lr"] * found
    if now["lr"] != before["lr"] or advanced is not None:
        changed = {**changed, **rates}
    group.update({key: value for key, value in changed.items() if key != "params"})


def _before(checkpoint: dict[str, Any], now: Configured) -> Configured:
    """Return what was configured according to the states of the optimisers."""
    states = [state["param_groups"] for state in checkpoint["optimizer_states"]]
    optimizers = [
        {**optimizer, "groups": [_options(group) for group in groups]}
        for optimizer, groups in zip(now["optimizers"], states, strict=False)
        if len(groups) >= len(optimizer["groups"])
    ]
    return {**now, "optimizers": optimizers}


def _forms(configured: Configured) -> list[tuple[str, list[list[str]]]]:
    return [(optimizer["class"], optimizer["parameters"]) for optimizer in configured["optimizers"]]


def _reduction(checkpoint: dict[str, Any], before: Configured) -> float:
    """Return the learning rate of the first group as a fraction of that with which training began."""
    (state, *_), (optimizer, *_) = checkpoint["optimizer_states"], before["optimizers"]
    return float(state["param_groups"][0]["lr"] / (optimizer["groups"][0]["lr"] or 1.0))


def _tell_of_a_new_optimizer(before: Configured, now: Configured) -> None:
    names = [" and ".join(o["class"] for o in each["optimizers"]) or "none" for each in (before, now)]
    other = f"it was {names[0]} and is {names[1]}"
    rank_zero_warn(
        "the optimiser starts anew, without momenta: "
        + (other if names[0] != names[1] else "its parameters are grouped or frozen otherwise")
    )
