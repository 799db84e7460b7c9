"""What the command adds to a training, by the kind of task."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.model_helpers import is_overridden

from cbam_lightning.callbacks.box_pictures import BoxPictures
from cbam_lightning.callbacks.box_predictions import DetectionWriter
from cbam_lightning.callbacks.class_pictures import ClassPictures
from cbam_lightning.callbacks.class_predictions import PredictionWriter
from cbam_lightning.callbacks.prediction_parts import PartWriter
from cbam_lightning.callbacks.raw_predictions import RawPredictionWriter
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.tasks import Classifier, Detector


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
