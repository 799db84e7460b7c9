"""Options of the optimiser that differ from those of the run that is resumed."""

from __future__ import annotations

import json
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch.optim import Optimizer


def take_typed_options(trainer: Trainer, pl_module: LightningModule, before: Any) -> None:
    """Let options that the user has changed win over the state of the optimiser, which holds the old ones.

    The learning rate keeps its place in the schedule: it changes in proportion to its peak. A module whose
    hyperparameters name no ``optimizer``, or that has several, goes on with the state of the checkpoint.

    Args:
        trainer: With its optimiser and schedule loaded.
        pl_module: Its hyperparameters are those of now.
        before: The optimiser and its options when the checkpoint was written.
    """
    if _plain(pl_module.hparams.get("optimizer")) == _plain(before):
        return
    configured: Any = pl_module.configure_optimizers()
    fresh = configured.get("optimizer") if isinstance(configured, dict) else configured
    if len(trainer.optimizers) != 1 or not isinstance(fresh, Optimizer):
        return
    (loaded,) = trainer.optimizers
    for group, new in zip(loaded.param_groups, fresh.param_groups, strict=True):
        # without a schedule, there is no other than the present rate
        ratio = new.get("initial_lr", new["lr"]) / group.get("initial_lr", group["lr"])
        kept = {"params": group["params"], "lr": group["lr"] * ratio}
        group.update({**new, **kept})
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs = [group["initial_lr"] for group in fresh.param_groups]


def _plain(options: Any) -> str:
    return json.dumps(
        options, default=lambda value: getattr(value, "__dict__", None) or repr(value), sort_keys=True
    )
