"""Which figure decides on the best checkpoint, and whether the figures that are watched exist."""

from __future__ import annotations

import pydoc
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BackboneFinetuning

from cbam_lightning.errors import UsageError, unknown_name

AUTO = "auto"  # what the model's class says
_LIBRARIES = ("cbam_lightning.", "pytorch_lightning.", "lightning.")


def resolve_monitor(config: Any) -> None:
    """Fill in the figure that decides on the best checkpoint, and whether more or less of it is better.

    A model's class says so by its attributes ``monitor`` and ``mode`` (left out, it is "max"). Without a
    ``monitor``, the checkpoint of the last epoch counts as the best.

    Args:
        config: Of a sub-command, nothing of it made yet; changed in place.

    Raises:
        UsageError: The user names another figure, and not whether more or less of it is better.
    """
    model_class = pydoc.locate(config["model"]["class_path"])
    own = getattr(model_class, "monitor", None)
    chosen = config["checkpoint"]
    if chosen["monitor"] == AUTO:
        chosen["monitor"] = own
    if chosen["mode"] == AUTO:
        if chosen["monitor"] not in (None, own):
            message = (
                f"--checkpoint.monitor is {chosen['monitor']!r}, not the model's own {own!r}; say what is "
                "better with it: --checkpoint.mode min or --checkpoint.mode max."
            )
            raise UsageError(message)
        chosen["mode"] = getattr(model_class, "mode", "max")


class TrainingStart(Callback):
    """Look at what only a trainer that is about to train can tell.

    Attributes:
        has_trained: Whether a training step is done.
    """

    def __init__(self) -> None:
        self.has_trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what the trainer would divide by.

        Raises:
            UsageError: No batch makes a step.
        """
        if trainer.accumulate_grad_batches < 1:
            message = f"accumulate_grad_batches is {trainer.accumulate_grad_batches}; allowed: 1 or more."
            raise UsageError(message)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to wait for a figure that neither training nor validation logs.

        Raises:
            UsageError: Names the figures that there are.
        """
        known = getattr(pl_module, "train_keys", None)
        if known is None or not _all_ours([pl_module, *trainer.callbacks]):  # type: ignore[attr-defined]
            return  # others may log what they like in training
        logged = {*trainer.callback_metrics, *known}
        for owner, key in _watched(trainer):
            if key not in logged:
                kind = f"figure to watch, by {owner},"
                raise unknown_name(kind, key, logged)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze a backbone that was trained when the run stopped, which ``BackboneFinetuning`` forgets."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        waits = any(not parameter.requires_grad for group in groups for parameter in group["params"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            due = getattr(callback, "unfreeze_backbone_at_epoch", 0) <= trainer.current_epoch
            if isinstance(callback, BackboneFinetuning) and waits and due:
                callback.make_trainable(pl_module.backbone)

    def on_train_batch_end(self, *args: Any) -> None:
        """Note that there is something to keep from now on."""
        self.has_trained = True


def _all_ours(parts: list[Any]) -> bool:
    return all(type(part).__module__.startswith(_LIBRARIES) for part in parts)


def _watched(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Return what is waited for, each with who does so."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = getattr(callback, "monitor", None)
        if key is not None and getattr(callback, "strict", True):
            yield type(callback).__name__, key
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None:
            yield "--model.schedule", config.monitor
