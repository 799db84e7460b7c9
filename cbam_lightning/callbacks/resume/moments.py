"""What Lightning's loops have to be told to go on exactly where a training was.

Lightning saves its progress in the middle of hooks and mends it when it is loaded, which loses the points
that are logged after the hook, or a validation. Training is saved here at four moments only, when nothing is
half done, and the progress is written down as it has to be for Lightning 2.6 to go on from there
(``_FitLoop.reset``, ``_TrainingEpochLoop.reset`` and ``advance``, ``_EvaluationLoop.update_restart_stage``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pytorch_lightning import Trainer

_COUNTS = ("ready", "started", "processed", "completed")
Progress = dict[str, Any]


class Moment(StrEnum):
    """When a training is saved."""

    BATCH = "batch"  # an optimiser step is done, and the epoch is not
    VALIDATION = "validation"  # a validation is about to begin, or under way
    EPOCH = "epoch"  # an epoch is done, and the next one is about to begin
    END = "end"  # the training is done


def write_progress(loops: dict[str, Any], moment: Moment, loader_states: list[dict[str, Any]]) -> None:
    """Change the progress in a checkpoint to that of a moment.

    Args:
        loops: The checkpoint's ``loops["fit_loop"]``; changed in place.
        moment: When it is.
        loader_states: Of the training data, before the batch that is about to be trained on.
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
    """Describe a validation that was broken off in its first batch, which Lightning begins again."""
    done = progress["total"]["completed"] - progress["current"]["completed"]
    progress["total"] = {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
    progress["current"], progress["is_last_batch"] = dict.fromkeys(_COUNTS, 0), False


def prepare_loops(trainer: Trainer, moment: Moment) -> None:
    """Set right what Lightning makes of the progress when it loads it; to be called as training starts."""
    fit_loop = trainer.fit_loop
    if moment in (Moment.EPOCH, Moment.END):
        # with max_steps, Lightning takes any training that goes on for one that was cut off in an epoch
        for loop in (fit_loop, fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop):
            loop._restarting = False
        fit_loop.epoch_loop.reset_restart_stage()
    if moment is Moment.BATCH:
        # the batch was begun, and will be again
        fit_loop.epoch_loop.batch_progress.total.reset_on_restart()
    # still there if something had asked for trainer.estimated_stepping_batches
    # (https://github.com/Lightning-AI/pytorch-lightning/issues/20550)
    if fit_loop._combined_loader_states_to_load and fit_loop._data_fetcher is not None:
        fit_loop._load_combined_loader_states()
        iter(fit_loop._data_fetcher)  # it may have read ahead


def prepare_logging(trainer: Trainer, moment: str | None) -> None:
    """Keep Lightning from taking the next batch for the first of its epoch, which resets averages."""
    if moment in (Moment.BATCH, Moment.VALIDATION):
        trainer._logger_connector._first_loop_iter = True  # of a batch before


def logged_steps(trainer: Trainer) -> int:
    """Return Lightning's count of steps, by which it numbers what is logged."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logged_steps(trainer: Trainer, steps: int) -> None:
    """Set Lightning's count of steps, to which loading adds one that was counted already."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps
