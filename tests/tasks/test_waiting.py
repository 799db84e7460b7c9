"""No training step waits for the device, with everything that the command puts into a trainer."""

import pytest
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torchmetrics.classification import MulticlassF1Score

from cbam_lightning.callbacks import EMA
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.runs.directory import RunDirectory
from tests.tasks.pretended_device import Enough, PretendedCUDA
from tests.tasks.small import batch, batches, classifier, trainer


def test_steps_between_the_intervals_wait_for_nothing(monkeypatch, tmp_path):
    ema, seeds = EMA(), StepSeeds()
    device = PretendedCUDA(monkeypatch, steps=7, averages=[ema])
    resume = ExactResume(RunDirectory(tmp_path), SaveOptions(), AtomicCheckpointIO(), seeds)
    run = trainer(
        *(device, resume, seeds, ema, TQDMProgressBar(), LearningRateMonitor()),
        logger=CSVLogger(tmp_path),
        log_every_n_steps=4,
        enable_progress_bar=True,
        gradient_clip_val=1.0,
    )
    model = classifier(
        attention_options={"implementation": "reference"},
        metrics=MulticlassF1Score(10, average="micro"),
    )
    with pytest.raises(Enough):
        run.fit(model, batches(*(batch(4, start) for start in range(8))))
    # the metrics check the first batch, and the average reads once how often it was updated
    assert [bool(waits) for waits in device.waits] == [True, True, False, True, True, False, False]
    # the logger reads after its step
    assert device.waits[4] == ["_local_scalar_dense"]
