"""The metric that selects the best checkpoint, and whether all monitored metrics exist."""

from __future__ import annotations

import pydoc
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BackboneFinetuning, StochasticWeightAveraging

from cbam_lightning.checks import check_choice, check_positive
from cbam_lightning.errors import UsageError

AUTO = "auto"  # as the model's class says
_OFF = ("gradient_clip_val", 0)  # as null
_LIBRARIES = ("cbam_lightning.", "pytorch_lightning.", "lightning.")


def resolve_monitor(config: Any) -> None:
    """Fill in the metric that selects the best checkpoint, and whether larger or smaller is better.

    They are the attributes ``monitor`` and ``mode`` (default: "max") of the model's class. Without a
    ``monitor``, the checkpoint of the last epoch counts as the best.

    Args:
        config: The parsed configuration of a sub-command; changed in place.

    Raises:
        UsageError: The user names another metric without saying whether larger or smaller is better.
    """
    model_class = pydoc.locate(config["model"]["class_path"])
    own = getattr(model_class, "monitor", None)
    chosen = config["checkpoint"]
    if chosen["monitor"] == AUTO:
        chosen["monitor"] = own
    if chosen["mode"] == AUTO:
        if chosen["monitor"] not in (None, own):
            raise UsageError(
                f"--checkpoint.monitor is {chosen['monitor']!r}, not the model's own {own!r}; say what is "
                "better: --checkpoint.mode min or --checkpoint.mode max."
            )
        chosen["mode"] = getattr(model_class, "mode", "max")


class TrainingStart(Callback):
    """Check what is known only when training is about to start.

    Attributes:
        has_trained: Whether a training step is done.
    """

    def __init__(self) -> None:
        self.has_trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse numbers by which the trainer cannot divide, and a limit that turns the gradient round.

        Raises:
            UsageError: One is below 1, or not above 0.
        """
        check_positive("accumulate_grad_batches", trainer.accumulate_grad_batches)
        if trainer.check_val_every_n_epoch is not None:
            check_positive("check_val_every_n_epoch", trainer.check_val_every_n_epoch)
        for name in ("val_check_interval", "gradient_clip_val"):
            value = getattr(trainer, name, None)
            if isinstance(value, (int, float)) and not value > 0 and (name, value) != _OFF:
                raise UsageError(f"--trainer.{name} is {value}; allowed: more than 0, or null.")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to monitor a metric that neither training nor validation logs.

        Raises:
            UsageError: Lists the metrics that are logged.
        """
        known = getattr(pl_module, "train_keys", None)
        parts: list[Any] = [pl_module, *trainer.callbacks]  # type: ignore[attr-defined]
        if known is None or not all(type(part).__module__.startswith(_LIBRARIES) for part in parts):
            return  # user-defined parts may log anything in training
        logged = {*trainer.callback_metrics, *known}
        for owner, key in _watched(trainer):
            check_choice(f"metric to monitor, by {owner},", key, logged)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze a backbone that a resumed run had unfrozen, which ``BackboneFinetuning`` forgets.

        Raises:
            UsageError: The run cannot be resumed.
        """
        refuse_begun_averaging(trainer)
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        waits = any(not parameter.requires_grad for group in groups for parameter in group["params"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            due = getattr(callback, "unfreeze_backbone_at_epoch", 0) <= trainer.current_epoch
            if isinstance(callback, BackboneFinetuning) and waits and due:
                callback.make_trainable(pl_module.backbone)

    def on_train_batch_end(self, *args: Any) -> None:
        """Note that the run has results to keep."""
        self.has_trained = True


def refuse_begun_averaging(trainer: Trainer) -> None:
    """Refuse to go on with a run in which Lightning's stochastic weight averaging had begun.

    It does not restore the learning rate that its schedule had reached, nor a pass over the data for the
    statistics of the normalisation.

    Raises:
        UsageError: There is such a callback, and it has the state of a checkpoint.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging) and callback._scheduler_state is not None:
            raise UsageError(
                "StochasticWeightAveraging had begun when this checkpoint was written, and cannot go on from "
                "there as if it had not been stopped: start the run anew, or average with EMA, which can."
            )


def _watched(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Return the monitored metrics, each with the name of what monitors it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = getattr(callback, "monitor", None)
        if key is not None and getattr(callback, "strict", True):
            yield type(callback).__name__, key
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None:
            yield "--model.schedule", config.monitor
