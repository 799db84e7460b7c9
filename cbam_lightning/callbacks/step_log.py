"""What a training step logs, without making a GPU or another process wait between the logger's intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from cbam_lightning.metrics.reading import Reading

_HOOK = "training_step"


class StepLog:
    """Logs the values of training steps, which stay on their device.

    In a single process the trainer always knows those of the last step. Several processes average them in
    steps in which they are looked at: a logger's, the last ones of an epoch and of the training, and all if a
    callback or a schedule monitors one. The progress bar shows the first value of this process, as soon as
    it has arrived.

    Attributes:
        names: What was logged last.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._reading: Reading | None = None
        self._left_out: Mapping[str, Tensor] = {}
        self._results: Any = None  # the collection that this has logged to

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(StepLog()), "names": self.names}  # what is on its way cannot be copied

    def log(self, module: LightningModule, values: Mapping[str, Tensor]) -> None:
        """Log the values of a training step, scalars; nothing outside of a training."""
        if module._current_fx_name is None:
            return
        trainer, self.names = module.trainer, tuple(values)
        values = {name: value.detach() for name, value in values.items()}
        is_looked_at = _is_looked_at(trainer, values)
        self._left_out = {} if is_looked_at else values
        if is_looked_at:
            self._log(module, values)
        if trainer.is_global_zero and trainer.progress_bar_callback is not None:
            self._show(trainer, *next(iter(values.items())))

    def catch_up(self, module: LightningModule) -> None:
        """Log the last values if the training has just been told to stop, which lets the trainer log them."""
        if self._left_out and module.trainer.should_stop:
            self._log(module, self._left_out)
            self._left_out = {}

    def _log(self, module: LightningModule, values: Mapping[str, Tensor]) -> None:
        results: Any = module.trainer._results
        for name, value in values.items():
            key = f"{_HOOK}.{name}"
            if results is self._results and key in results and not results[key].has_reset:
                # the checks of self.log take longer than a small network's layer
                results.update_metrics(key, value, batch_size=1)
            else:
                results.pop(key, None)  # a checkpoint's may have other options, and not on all processes
                module.log(name, value, on_step=True, on_epoch=False, sync_dist=True)
        self._results = results

    def _show(self, trainer: Trainer, name: str, value: Tensor) -> None:
        if self._reading is None:
            self._reading = Reading(value)
        if self._reading.is_here:
            trainer._logger_connector._progress_bar_metrics[name] = float(self._reading)
            self._reading = None


def _is_looked_at(trainer: Trainer, values: Mapping[str, Tensor]) -> bool:
    """Return whether anything looks at the values of this step, on all processes alike."""
    if trainer.world_size == 1:
        return True
    is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    is_trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
    if is_last or is_trial or trainer._logger_connector.should_update_logs:
        return True
    looking: list[Any] = [*trainer.callbacks, *trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
    return any(getattr(each, "monitor", None) in values for each in looking)
