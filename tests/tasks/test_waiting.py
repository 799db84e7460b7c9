"""No training step waits for the device, with everything that the command puts into a trainer."""

import pytest
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassF1Score

from cbam_lightning.callbacks import EMA
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.errors import UsageError
from cbam_lightning.metrics.step_checks import update_metrics
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
    model = classifier(attention_options={"implementation": "reference"})
    with pytest.raises(Enough):
        run.fit(model, batches(*(batch(4, start) for start in range(8))))
    # in the second step the average reads, once, how often it was updated; the fourth is the logger's
    assert [bool(waits) for waits in device.waits] == [False, True, False, True, True, False, False]
    # the logger reads after its step
    assert device.waits[4] == ["_local_scalar_dense"]


def test_the_metrics_of_torchmetrics_check_the_first_batch_only():
    metrics, labels = MetricCollection({"f1": MulticlassF1Score(3)}), torch.tensor([0, 1, 2, 0])
    update_metrics(metrics, torch.randn(4, 3), labels)
    assert not metrics["f1"].validate_args
    with pytest.raises(UsageError, match="does not take logits"):
        update_metrics(
            MetricCollection([MulticlassF1Score(4)]), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        )
