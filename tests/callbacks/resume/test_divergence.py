"""Losses and weights of modules that are not ours."""

import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.divergence import LossWatch, has_finite_weights
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.errors import RunStopped
from cbam_lightning.runs.directory import RunDirectory
from tests.tasks.small import batch, batches, classifier, trainer

TRAINER = SimpleNamespace(global_step=3, current_epoch=1, world_size=1, is_global_zero=True, datamodule=None)


@pytest.mark.parametrize("outputs", [None, {}, {"loss": 1.0}, {"other": torch.tensor(float("nan"))}, "text"])
def test_whatever_a_step_returns(outputs):
    watch = LossWatch()
    watch.note(TRAINER, outputs, torch.zeros(2), 0)
    assert watch.is_finite()


def test_a_batch_without_names(tmp_path):
    watch = LossWatch()
    watch.note(TRAINER, {"loss": torch.tensor(float("nan"))}, torch.zeros(2), 4)
    assert not watch.is_finite()
    text = str(watch.stop(TRAINER, RunDirectory(tmp_path)))
    assert "(nan) at step 3, epoch 1, batch 4. Last good checkpoint: none" in text


def test_the_first_bad_batch_is_named_steps_later(tmp_path):
    watch = LossWatch()
    for number, loss in enumerate([1.0, math.nan, 1.0, math.inf]):
        images = torch.tensor([2 * number, 2 * number + 1])
        watch.note(TRAINER, torch.tensor([loss]), SimpleNamespace(indices=images), number)
        if number in (0, 2):  # a step of two batches
            total = watch.take_total()
            assert bool(total.isfinite()) == (number == 0)
    assert not watch.is_finite()
    data = SimpleNamespace(sample_name=lambda split, index: f"{split}-{index}")
    text = str(watch.stop(SimpleNamespace(**{**vars(TRAINER), "datamodule": data}), RunDirectory(tmp_path)))
    assert "(nan) at step 3, epoch 1, batch 1: train-2, train-3." in text


def test_the_losses_of_long_ago_are_not_kept():
    watch = LossWatch()
    for number, loss in enumerate([math.nan, *[1.0] * 4]):
        watch.note(TRAINER, torch.tensor(loss), None, number)
        watch.take_total()
    assert watch.is_finite()
    watch.forget()
    assert watch.take_total() is None


def test_no_callback_saves_what_a_bad_loss_has_made(tmp_path):
    seeds, run = StepSeeds(), RunDirectory(tmp_path)
    resume = ExactResume(run, SaveOptions(), AtomicCheckpointIO(), seeds)
    saving = ModelCheckpoint(tmp_path / "saved", "{step}", save_top_k=-1, every_n_train_steps=1)
    data = [batch(2, start) for start in range(4)]
    data[2].images[0] = math.nan
    with pytest.raises(RunStopped, match=r"\(nan\) at step 3, epoch 0, batch 2"):
        trainer(resume, seeds, saving).fit(classifier(attention="none"), batches(*data))
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["step=1.ckpt", "step=2.ckpt"]


def test_weights():
    layer = nn.Linear(2, 2)
    assert has_finite_weights(nn.Identity())
    assert has_finite_weights(layer)
    layer.bias.data[1] = float("inf")
    assert not has_finite_weights(layer)
