"""Detecting a loss of NaN or Inf, without making a GPU wait."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from cbam_lightning.callbacks.resume.processes import STEPS_BEHIND, gather
from cbam_lightning.errors import RunStopped
from cbam_lightning.files import atomic_write
from cbam_lightning.runs.directory import RunDirectory

EXIT_DIVERGED = 3
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class _Trained:
    """A batch that was trained on.

    Attributes:
        place: Its step, epoch and number in the epoch.
        loss: Its loss on this device, if the module returned one.
        indices: Positions of its images in the data set, if the batch has them.
    """

    place: dict[str, int]
    loss: Tensor | None
    indices: Tensor | None

    @property
    def is_good(self) -> bool:
        """Whether the loss is finite; reading it waits for the device."""
        return self.loss is None or bool(torch.isfinite(self.loss).all())


class LossWatch:
    """Keeps the losses of the last batches until it is known that those of all processes are finite."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        # by step: those whose sum is being looked at, the last one that was sent, and the present one
        self._steps: deque[list[_Trained]] = deque([[]], maxlen=STEPS_BEHIND + 2)

    def note(self, trainer: Trainer, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the loss, the place and the images of a training batch."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        loss = loss.detach() if isinstance(loss, Tensor) else None
        indices = getattr(batch, "indices", None)
        indices = indices if isinstance(indices, Tensor) else None
        place = {"step": trainer.global_step, "epoch": trainer.current_epoch, "batch": batch_idx}
        self._steps[-1].append(_Trained(place, loss, indices))
        if loss is not None:
            # a sum, which is a new tensor, whatever the shape
            self._total = loss.float().sum() if self._total is None else self._total + loss.float().sum()

    def take_total(self) -> Tensor | None:
        """Return the sum of the losses since this was last called, and forget those of long ago.

        It is finite if all of them are, unless they are too large for float32.
        """
        total, self._total = self._total, None
        self._steps.append([])
        return total

    def is_finite(self) -> bool:
        """Return whether all losses that are kept are finite; this waits for the device."""
        return all(batch.is_good for batch in self._kept)

    def forget(self) -> None:
        """Keep only the last batch, once all losses are known to be finite."""
        self._steps.append(self._kept[-1:])
        while len(self._steps) > 1:
            self._steps.popleft()
        self._total = None

    def stop(self, trainer: Trainer, run: RunDirectory) -> RunStopped:
        """Write where the run diverged to ``divergence.json``, and return the error that says so.

        Args:
            trainer: The trainer; must be called on all processes.
            run: Its ``divergence.json`` names the images of the first bad batch, of all devices.
        """
        number, _, loss = min(gather(trainer, self._first_bad()), key=lambda found: found[:2])
        batch = self._kept[number]
        names = [name for names in gather(trainer, _names(trainer, batch)) for name in names]
        if not trainer.is_global_zero:
            return RunStopped("", 0)
        report = {**batch.place, "loss": str(loss), "images": names}
        with atomic_write(run.divergence) as file:
            file.write(json.dumps(report, indent=2).encode())
        is_loss = loss is not None and not math.isfinite(loss)
        what = f"the loss became NaN or Inf ({loss})" if is_loss else "weights became NaN or Inf"
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        images = f": {shown}. All images of the batch are in {run.divergence}" if names else ""
        last = run.last if run.last.is_file() else "none was written"
        message = (
            f"{what} at step {batch.place['step']}, epoch {batch.place['epoch']}, batch "
            f"{batch.place['batch']}{images}. Last good checkpoint: {last}. Lower the learning rate "
            "(--model.optimizer.lr), or check the images."
        )
        return RunStopped(message, EXIT_DIVERGED)

    @property
    def _kept(self) -> list[_Trained]:
        return [batch for step in self._steps for batch in step]

    def _first_bad(self) -> tuple[int, bool, float | None]:
        """Return the number of the first batch with a bad loss on this device, or else of the last batch.

        Also whether its loss is good after all, and the loss.
        """
        goods = [batch.is_good for batch in self._kept]
        number = goods.index(False) if False in goods else len(goods) - 1
        loss = self._kept[number].loss
        return number, goods[number], None if loss is None else float(loss)


def _names(trainer: Trainer, batch: _Trained) -> list[str]:
    """Return the names of the images of a batch on this device."""
    data: Any = getattr(trainer, "datamodule", None)
    if batch.indices is None or not hasattr(data, "sample_name"):
        return []
    return [str(data.sample_name("train", index)) for index in batch.indices.tolist()]


def has_finite_weights(module: nn.Module) -> bool:
    """Return whether all weights are finite; a finite loss may have a gradient that is not."""
    finite = [p.detach().isfinite().all() for p in module.parameters()]
    return not finite or bool(torch.stack(finite).all())
