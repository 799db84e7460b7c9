"""The position in an epoch of a run that is resumed, perhaps with other batches than those before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from cbam_lightning.callbacks.resume.exact_loader import ExactLoader
from cbam_lightning.callbacks.resume.moments import Moment
from cbam_lightning.data.loader import BatchLoader
from cbam_lightning.optim.place import Seam, TrainingPlace, current_epoch

_WITHIN = (Moment.BATCH, Moment.VALIDATION)
_SAME_EPOCHS = 1e-9  # far below the share of one image


def read_position(place: TrainingPlace, moment: Moment | None) -> dict[str, Any]:
    """Return the place in the training, for a checkpoint.

    Args:
        place: The place; at the moment ``BATCH``, Lightning has counted a batch that is not trained on yet.
        moment: When the run is saved.
    """
    loop, num_batches = place.trainer.fit_loop, place.trainer.num_training_batches
    epoch, progress = current_epoch(place.trainer), loop.epoch_loop.batch_progress
    if moment is Moment.BATCH:
        epochs = place.epochs_after(progress.current.ready - 1)
    else:
        epochs = place.epochs if moment is Moment.VALIDATION else float(epoch)
    seam = asdict(place.seam) if place.seam is not None and place.seam.epoch == epoch else None
    return {"epochs": epochs, "num_batches": num_batches, "seam": seam if moment in _WITHIN else None}


def continue_epoch(place: TrainingPlace, moment: Moment, saved: Mapping[str, Any] | None) -> None:
    """Let Lightning and the schedule go on at the image at which the epoch was interrupted.

    Args:
        place: The place in the training; its ``seam`` is set.
        moment: When the run was saved.
        saved: What ``read_position`` returned then; ``None`` in checkpoints of older versions.
    """
    if moment not in _WITHIN:
        return
    progress = place.trainer.fit_loop.epoch_loop.batch_progress
    progress.is_last_batch = progress.is_last_batch and moment is Moment.VALIDATION
    progress.current.completed = _batch(place.trainer, progress, saved)
    progress.reset_on_restart()
    if saved is not None:
        _find_seam(place, saved, progress.current.completed)


def _batch(trainer: Trainer, progress: Any, saved: Mapping[str, Any] | None) -> int:
    """Return the number of the next batch, among those that an epoch has now."""
    whole, loader = trainer.num_training_batches, trainer.fit_loop._combined_loader
    position = loader.position if isinstance(loader, ExactLoader) else None
    if math.isinf(whole):
        return int(progress.current.completed)
    if progress.is_last_batch:
        return int(whole)
    if position is not None:
        return min(position, int(whole))
    if saved is not None and saved["num_batches"] != whole:
        rank_zero_warn(
            f"an epoch has {whole} batches and had {saved['num_batches']}; the loader finds its place "
            "itself: whether it reads the rest of this epoch exactly once is not known."
        )
    return int(progress.current.completed)


def _find_seam(place: TrainingPlace, saved: Mapping[str, Any], batch: int) -> None:
    """Set the seam of the place, if the rest of the epoch counts otherwise than its beginning."""
    epoch, loader = current_epoch(place.trainer), place.trainer.train_dataloader
    place.seam = None if saved["seam"] is None else Seam(**saved["seam"])
    if abs(place.epochs - saved["epochs"]) > _SAME_EPOCHS and saved["epochs"] < epoch + 1:
        place.seam = Seam(epoch, saved["epochs"] - epoch, batch)
    if place.seam is not None and isinstance(loader, BatchLoader):
        first = loader.next_batch - (batch - place.seam.batch)
        place.share_since = partial(loader.share, first)
