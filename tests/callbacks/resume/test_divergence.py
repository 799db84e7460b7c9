"""Losses and weights of modules that are not ours."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cbam_lightning.callbacks.resume.divergence import LossWatch, has_finite_weights
from cbam_lightning.runs.directory import RunDirectory

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


def test_weights():
    layer = nn.Linear(2, 2)
    assert has_finite_weights(nn.Identity())
    assert has_finite_weights(layer)
    layer.bias.data[1] = float("inf")
    assert not has_finite_weights(layer)
