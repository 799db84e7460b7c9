"""Options of the optimiser that the user changes when a run is resumed."""

from __future__ import annotations

import json
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch.optim import Optimizer


def take_typed_options(trainer: Trainer, pl_module: LightningModule, before: Any) -> None:
    """Let changed options take precedence over the optimiser's saved state, which has the old ones.

    The learning rate keeps its place in the schedule: it changes in proportion to its peak. Modules without a
    hyperparameter ``optimizer``, or with several optimisers, continue with the saved state.

    Args:
        trainer: The trainer, with optimiser and schedule loaded.
        pl_module: The module, with the present hyperparameters.
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
        # without a schedule, there is only the present rate
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
