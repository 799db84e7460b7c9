"""Detecting a loss of NaN or Inf, without making a GPU wait."""

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
    """Keeps the loss of the last batch until the next one is ready, and then checks it."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._indices: Tensor | None = None
        self._place: dict[str, int] = {}

    def note(self, trainer: Trainer, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the loss and the place of a training batch."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._loss = loss.detach() if isinstance(loss, Tensor) else None
        indices = getattr(batch, "indices", None)
        self._indices = indices if isinstance(indices, Tensor) else None
        self._place = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch": batch_idx}

    def is_finite(self) -> bool:
        """Return whether the loss of the last batch is finite."""
        return self._loss is None or bool(torch.isfinite(self._loss).all())

    def stop(self, trainer: Trainer, run: RunDirectory) -> RunStopped:
        """Write where the run diverged to ``divergence.json``, and return the error that says so.

        Args:
            trainer: The trainer; must be called on all processes.
            run: Its ``divergence.json`` names the images of the batch, of all devices.
        """
        names = [name for names in gather(trainer, self._names(trainer)) for name in names]
        if not trainer.is_global_zero:
            return RunStopped("", 0)
        loss = None if self._loss is None else float(self._loss)
        report = {**self._place, "loss": str(loss), "images": names}
        with atomic_write(run.divergence) as file:
            file.write(json.dumps(report, indent=2).encode())
        is_loss = loss is not None and not math.isfinite(loss)
        what = f"the loss became NaN or Inf ({loss})" if is_loss else "weights became NaN or Inf"
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        images = f": {shown}. All images of the batch are in {run.divergence}" if names else ""
        last = run.last if run.last.is_file() else "none was written"
        message = (
            f"{what} at step {self._place['step']}, epoch {self._place['epoch']}, batch "
            f"{self._place['batch']}{images}. Last good checkpoint: {last}. Lower the learning rate "
            "(--model.optimizer.lr), or check the images."
        )
        return RunStopped(message, EXIT_DIVERGED)

    def _names(self, trainer: Trainer) -> list[str]:
        """Return the names of the images in the last batch on this device."""
        data = getattr(trainer, "datamodule", None)
        if self._indices is None or not hasattr(data, "sample_name"):
            return []
        return [str(data.sample_name("train", index)) for index in self._indices.tolist()]  # type: ignore[union-attr]


def has_finite_weights(module: nn.Module) -> bool:
    """Return whether all weights are finite; a finite loss may have a gradient that is not."""
    finite = [p.detach().isfinite().all() for p in module.parameters()]
    return not finite or bool(torch.stack(finite).all())
