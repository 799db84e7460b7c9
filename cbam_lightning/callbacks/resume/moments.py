"""The progress of Lightning's loops at the moments at which a run is saved.

Lightning saves its progress in the middle of hooks and corrects it on loading, which loses points that are
logged after the hook, or a validation. Here a run is saved at four moments only, between two actions, and the
progress is written so that Lightning 2.6 continues exactly there
(``_FitLoop.reset``, ``_TrainingEpochLoop.reset`` and ``advance``, ``_EvaluationLoop.update_restart_stage``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pytorch_lightning import Trainer

_COUNTS = ("ready", "started", "processed", "completed")
Progress = dict[str, Any]


class Moment(StrEnum):
    """When a run is saved."""

    BATCH = "batch"  # an optimiser step is done, and the epoch is not
    VALIDATION = "validation"  # a validation is about to begin, or running
    EPOCH = "epoch"  # an epoch is done, and the next one is about to begin
    END = "end"  # training is done


def write_progress(loops: dict[str, Any], moment: Moment, loader_states: list[dict[str, Any]]) -> None:
    """Change the progress in a checkpoint to that of a moment.

    Args:
        loops: The checkpoint's ``loops["fit_loop"]``; changed in place.
        moment: The moment.
        loader_states: States of the training loaders, before the batch that is about to be trained on.
    """
    batches = loops["epoch_loop.batch_progress"]
    if moment is Moment.BATCH:
        loops["state_dict"]["combined_loader"] = loader_states
    elif moment is Moment.VALIDATION:
        _about_to_validate(loops["epoch_loop.val_loop.batch_progress"])
    else:
        _between_epochs(loops["epoch_progress"])
        loops["state_dict"].pop("combined_loader", None)
        batches["current"], batches["is_last_batch"] = dict.fromkeys(_COUNTS, 0), False


def _between_epochs(progress: Progress) -> None:
    for counts in (progress["total"], progress["current"]):
        counts.update(dict.fromkeys(_COUNTS, counts["processed"]))


def _about_to_validate(progress: Progress) -> None:
    """Describe a validation that was interrupted in its first batch, which Lightning repeats."""
    done = progress["total"]["completed"] - progress["current"]["completed"]
    progress["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    progress["current"], progress["is_last_batch"] = dict.fromkeys(_COUNTS, 0), False


def prepare_loops(trainer: Trainer, moment: Moment) -> None:
    """Correct what Lightning makes of the loaded progress; call it when training starts."""
    fit_loop = trainer.fit_loop
    if moment in (Moment.EPOCH, Moment.END):
        # with max_steps, Lightning takes any resumed run for one that was interrupted within an epoch
        for loop in (fit_loop, fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop):
            loop._restarting = False
        fit_loop.epoch_loop.reset_restart_stage()
    if moment is Moment.BATCH:
        # the batch was started, and is started again
        fit_loop.epoch_loop.batch_progress.total.reset_on_restart()
    # still there if trainer.estimated_stepping_batches was read
    # (https://github.com/Lightning-AI/pytorch-lightning/issues/20550)
    if fit_loop._combined_loader_states_to_load and fit_loop._data_fetcher is not None:
        fit_loop._load_combined_loader_states()
        iter(fit_loop._data_fetcher)  # it may have read ahead


def prepare_logging(trainer: Trainer, moment: str | None) -> None:
    """Keep Lightning from treating the next batch as the first of its epoch, which resets averages."""
    if moment in (Moment.BATCH, Moment.VALIDATION):
        trainer._logger_connector._first_loop_iter = True  # as after a batch
