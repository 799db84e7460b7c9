"""What the command adds to a training, by the kind of task, and what it has to know of its data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.model_helpers import is_overridden

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.box_pictures import BoxPictures
from cbam_lightning.runs.class_pictures import ClassPictures
from cbam_lightning.runs.detections import DetectionWriter
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.parts import PartWriter
from cbam_lightning.runs.predictions import PredictionWriter
from cbam_lightning.runs.raw_predictions import RawPredictionWriter
from cbam_lightning.runs.settings import flatten
from cbam_lightning.tasks import Classifier, Detector
from cbam_lightning.tasks.image_task import ImageTask

# What a network cannot be built without, and a plain data module may not say.
_STATED = ("num_classes", "in_channels")


def pictures(model: LightningModule, run: RunDirectory) -> list[Callback]:
    """Return the callback that draws what a task makes of its images; none for a task of the user's."""
    if isinstance(model, Detector):
        return [BoxPictures(run)]
    if isinstance(model, Classifier):
        return [ClassPictures(run)]
    rank_zero_info(
        f"{type(model).__name__} is no Classifier: its pictures, `weights export` and `explain` are left out."
    )
    return []


def prediction_writer(model: LightningModule, run: RunDirectory) -> PartWriter:
    """Return the callback that writes the predictions of a task."""
    if isinstance(model, Detector):
        return DetectionWriter(run)
    return PredictionWriter(run) if isinstance(model, Classifier) else RawPredictionWriter(run)


def can_test(model: LightningModule, data: LightningDataModule | None) -> bool:
    """Tell whether there is a test to make: a step, and data for it."""
    return is_overridden("test_step", model) and (
        is_overridden("test_dataloader", model)
        or (data is not None and is_overridden("test_dataloader", data, LightningDataModule))
    )


def require_stated(model: LightningModule, data: LightningDataModule | None, args: Sequence[str]) -> None:
    """Refuse to guess how many classes and channels there are.

    Args:
        model: Of the run.
        data: A plain data module need not say it.
        args: The command line, in which it may be typed, or stand in a configuration.

    Raises:
        UsageError: A task of ours has been told by neither.
    """
    if not isinstance(model, ImageTask) or data is None:
        return
    missing = [name for name in _STATED if not hasattr(data, name)]
    typed = _typed(args) if missing else set()
    if untold := [name for name in missing if f"model.{name}" not in typed]:
        message = (
            f"{type(data).__name__} has no attribute {untold[0]}, so the network cannot be made for it; give "
            f"--model.{untold[0]}, or set it in the data module's __init__."
        )
        raise UsageError(message)


def _typed(args: Sequence[str]) -> set[str]:
    """Return every option that was typed, or stands in a configuration file or in a checkpoint."""
    options = {word.removeprefix("--").partition("=")[0] for word in args if word.startswith("--")}
    for option, path in pairwise(args):
        if option in ("-c", "--config"):
            with open(path) as file:  # noqa: PTH123 - read before, by the parser
                options |= flatten(yaml.safe_load(file) or {}).keys()
    if "ckpt_path" in options:  # it says the rest
        options |= {f"model.{name}" for name in _STATED}
    return options
