"""What a user's own module predicts, kept as it is."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel

from cbam_lightning.callbacks.raw_predictions import RawPredictions
from cbam_lightning.runs.directory import RunDirectory


class Two(BoringModel):
    def predict_step(self, batch, batch_idx):
        return {"sum": batch.sum(1), "index": batch_idx}


class Odd(BoringModel):
    def predict_step(self, batch, batch_idx):
        return {batch_idx}


def predict(module):
    run = RunDirectory.create("runs", "raw")
    trainer = Trainer(
        logger=False,
        accelerator="cpu",
        callbacks=[RawPredictions(run)],
        enable_progress_bar=False,
        limit_predict_batches=5,
    )
    return run, trainer.predict(module, datamodule=BoringDataModule())


def test_predictions_are_in_the_order_of_the_batches():
    run, expected = predict(Two())
    found = torch.load(run.path / "predictions.pt", weights_only=True)
    assert [batch["index"] for batch in found] == [0, 1, 2, 3, 4]
    assert all(torch.equal(a["sum"], b["sum"]) for a, b in zip(found, expected, strict=True))
    assert [path.name for path in run.path.iterdir()] == ["predictions.pt"]


def test_the_batches_of_several_processes_take_turns(tmp_path):
    run = RunDirectory.create("runs", "raw")
    parts = [tmp_path / "0", tmp_path / "1"]
    for part, batches in zip(parts, ([0, 2, 4], [1, 3]), strict=True):
        torch.save([torch.tensor(batch) for batch in batches], part)
    RawPredictions(run).join(parts)
    assert [int(batch) for batch in torch.load(run.path / "predictions.pt")] == [0, 1, 2, 3, 4]


def test_what_cannot_be_kept_is_left_out_in_one_line():
    with pytest.warns(UserWarning, match=r"predict_step returns a set: predictions.pt is left out"):
        run, _ = predict(Odd())
    assert list(run.path.iterdir()) == []
