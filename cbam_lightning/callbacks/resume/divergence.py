"""Watching the loss, without making a GPU wait for it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from cbam_lightning.callbacks.resume.processes import gather
from cbam_lightning.errors import RunStopped
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.directory import RunDirectory

EXIT_DIVERGED = 3
_NAMES_SHOWN = 3


class LossWatch:
    """Keeps the loss of the last batch, to look at it when the next one is there."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._indices: Tensor | None = None
        self._place: dict[str, int] = {}

    def note(self, trainer: Trainer, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take down a batch of training."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._loss = loss.detach() if isinstance(loss, Tensor) else None
        indices = getattr(batch, "indices", None)
        self._indices = indices if isinstance(indices, Tensor) else None
        self._place = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch": batch_idx}

    def is_finite(self) -> bool:
        """Say whether the loss of the last batch is a number."""
        return self._loss is None or bool(torch.isfinite(self._loss).all())

    def stop(self, trainer: Trainer, run: RunDirectory) -> RunStopped:
        """Write down where loss or weights were lost, and return the error that says so.

        Args:
            trainer: Of the training; all of its processes have to come here.
            run: Its ``divergence.json`` gets the images of the batch, of all devices.
        """
        names = [name for names in gather(trainer, self._names(trainer)) for name in names]
        if not trainer.is_global_zero:
            return RunStopped("", 0)
        loss = None if self._loss is None else float(self._loss)
        report = {**self._place, "loss": str(loss), "images": names}
        with atomic_write(run.divergence) as file:
            file.write(json.dumps(report, indent=2).encode())
        lost = loss is not None and not math.isfinite(loss)
        what = f"the loss is no number any more ({loss})" if lost else "weights are no numbers any more"
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        images = f": {shown}. All images of the batch are in {run.divergence}" if names else ""
        last = run.last if run.last.is_file() else "none was written yet"
        message = (
            f"{what} at step {self._place['step']}, epoch {self._place['epoch']}, batch "
            f"{self._place['batch']}{images}. Last good checkpoint: {last}. Lower the learning rate "
            "(--model.optimizer.lr), or look at the images."
        )
        return RunStopped(message, EXIT_DIVERGED)

    def _names(self, trainer: Trainer) -> list[str]:
        """Return the names of the images in the last batch of this device."""
        data = getattr(trainer, "datamodule", None)
        if self._indices is None or not hasattr(data, "sample_name"):
            return []
        return [str(data.sample_name("train", index)) for index in self._indices.tolist()]  # type: ignore[union-attr]


def has_finite_weights(module: nn.Module) -> bool:
    """Say whether all weights are numbers; with a finite loss whose gradient was not, some are none."""
    found = [p.detach().isfinite().all() for p in module.parameters()]
    return not found or bool(torch.stack(found).all())
