"""Exponential moving average of the weights, from the first step."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torchmetrics import Metric

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.checkpoint import PROVENANCE_KEY


class EMA(WeightAveraging):
    """Train the raw weights; validate, test and save their moving average.

    Differs from Lightning's ``EMAWeightAveraging``: the decay warms up, so that the average of the first
    epochs does not include the random start; until a late start, the raw weights are validated and saved, not
    the untrained copy (https://github.com/Lightning-AI/pytorch-lightning/issues/21724); integer buffers are
    copied, not averaged; the metric that a task monitors is also logged with the raw weights, for example as
    ``val/top1_raw``.

    A checkpoint's ``state_dict`` holds the average and its ``current_model_state`` the raw weights.

    Args:
        decay: Upper limit of the weight of the old average at each step, in [0, 1).
        warmup: Whether the decay rises as ``min(decay, (1 + n) / (10 + n))`` with n the number of updates
            (https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage).
        start_epoch: Number of epochs before averaging starts.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True, start_epoch: int = 0) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the decay of the average is {decay}; allowed: 0 or more, and less than 1.")
        super().__init__(use_buffers=True)
        self.decay = decay
        self.warmup = warmup
        self.start_epoch = start_epoch
        self._epoch = 0
        self._swapped = False
        self._updates: int | None = None  # not read from the average yet
        self._raw_metric: Metric | None = None

    def decay_at(self, updates: int) -> float:
        """Return the decay of the update that follows ``updates`` updates."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    def _update(self, average: AveragedModel, pl_module: LightningModule) -> None:
        """Average the weights of a step.

        ``AveragedModel.update_parameters`` reads its number of updates, for which it waits for the device.
        """
        if self._updates is None:
            self._updates = int(average.n_averaged)
        keep = self.decay_at(self._updates) if self._updates else 0.0
        both: list[Any] = [_values(average.module), _values(pl_module)]
        groups: dict[Any, Any] = dict(_group_tensors_by_device_and_dtype(both))
        for (averaged, current), _ in groups.values():
            if keep and averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, 1 - keep)
            else:
                torch._foreach_copy_(averaged, current)
        average.n_averaged += 1
        self._updates += 1

    def _follow_until_started(self, pl_module: LightningModule) -> None:
        """Copy the raw weights to the average until its first update."""
        if self._average_model is not None and not self._average_model.n_averaged:
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the last run; otherwise a test after it would replace the average by the raw weights."""
        self._average_model = None
        self._latest_update_step = 0
        self._swapped = False
        self._updates = None
        self._raw_metric = None
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the average at least in float32, and no less precisely than the weights."""
        super().on_fit_start(trainer, pl_module)
        if self._average_model is not None:
            self._average_model.to(torch.promote_types(pl_module.dtype, torch.float32))  # type: ignore[arg-type]

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether to update: after every optimiser step once ``start_epoch`` is reached."""
        return step_idx is not None and self._epoch >= self.start_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average; ``should_update`` does not get the epoch."""
        self._epoch, step = trainer.current_epoch, trainer.global_step
        is_new = step > self._latest_update_step
        if self._average_model is not None and is_new and self.should_update(step_idx=step - 1):
            self._update(self._average_model, pl_module)
            self._latest_update_step = step

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in the average."""
        self._follow_until_started(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)
        if self._average_model is not None:
            self._average_model.module.eval()
            make: Any = getattr(pl_module, "monitored_metric", None)
            self._raw_metric = make().to(pl_module.device) if make else None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Evaluate the raw weights, which are in the averaged copy during validation."""
        if self._raw_metric is not None and self._average_model is not None and len(batch.images):
            images = batch.images.to(next(self._average_model.parameters()).dtype)
            self._raw_metric.update(self._average_model.module(images), batch.labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap back the raw weights."""
        super().on_validation_epoch_end(trainer, pl_module)
        if self._raw_metric is not None:
            pl_module.log(f"{pl_module.monitor}_raw", self._raw_metric.compute())
            self._raw_metric = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module, and keep the raw weights for the last checkpoint."""
        self._follow_until_started(pl_module)
        self._swap_models(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Save the average as ``state_dict`` and the raw weights next to it, and say so."""
        if self._average_model is None:
            return
        self._follow_until_started(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:  # in a validation, or at the end of the run
            raw, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint.update(state_dict=average, current_model_state=raw)
        checkpoint.setdefault(PROVENANCE_KEY, {})["averaged"] = bool(self._average_model.n_averaged)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Restore both copies for training; evaluation uses ``state_dict``, the average."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _values(module: nn.Module) -> list[Tensor]:
    return [value.detach() for value in chain(module.parameters(), module.buffers())]
