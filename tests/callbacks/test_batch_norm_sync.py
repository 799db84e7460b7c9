"""Lightning's ``sync_batchnorm`` on the CPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cbam_lightning.callbacks import EMA
from cbam_lightning.callbacks.batch_norm_sync import BatchNormSync
from cbam_lightning.models.sync_batch_norm import SyncBatchNorm
from tests.tasks.small import batch, batches, classifier, differing, snapshot, trainer

REPOSITORY = Path(__file__).parents[2]
FROZEN = "layer1.0.bn1"
SCRIPT = """
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from cbam_lightning.callbacks import EMA
from cbam_lightning.callbacks.batch_norm_sync import BatchNormSync
from tests.tasks.small import snapshot, trainer
from tests.callbacks.test_batch_norm_sync import batch_norms, frozen_classifier, share


class Classes(Callback):
    def on_train_start(self, trainer, pl_module):
        self.found = batch_norms(pl_module)


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, classes = frozen_classifier(), Classes()
    lightning = trainer(
        EMA(decay=0.5), classes, ModelCheckpoint("."), devices=2, strategy="ddp", max_epochs=2,
        sync_batchnorm=True, plugins=[BatchNormSync()], use_distributed_sampler=False,
    )
    lightning.fit(model, *share(4, 4 * lightning.global_rank))
    found = {
        "state": snapshot(model),
        "during": {kind.__name__ for kind in classes.found},
        "after": {kind.__name__ for kind in batch_norms(model)},
        "checkpoint": torch.load(lightning.checkpoint_callback.best_model_path, weights_only=True),
        "metrics": dict(lightning.callback_metrics),
    }
    torch.save(found, f"{lightning.global_rank}.pt")
"""


def batch_norms(module):
    return {type(m) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def frozen_classifier():
    return classifier(freeze=FROZEN)


def share(count, start=0):
    """Return a part of two batches to train on, and of one to evaluate."""
    return batches(batch(count, start), batch(count, start + 8)), batches(batch(count, start + 100))


def test_two_devices_train_as_one_with_all_images(tmp_path):
    Path("run.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "run.py"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found, other = (torch.load(f"{rank}.pt") for rank in range(2))
    assert (found["during"], found["after"]) == ({"SyncBatchNorm"}, {"BatchNorm2d"})
    assert not differing(found["state"], other["state"])

    model = frozen_classifier()
    start = snapshot(model)
    alone = trainer(EMA(decay=0.5), max_epochs=2)
    alone.fit(model, *share(8))
    torch.testing.assert_close(found["state"], snapshot(model), rtol=0, atol=1e-5)
    for name in ("val/loss", "val/top1", "val/top1_raw"):
        torch.testing.assert_close(found["metrics"][name], alone.callback_metrics[name], rtol=1e-5, atol=1e-5)
    saved = found["checkpoint"]
    assert list(saved["state_dict"]) == list(start)
    assert not differing(saved["state_dict"], found["state"])

    trained = differing(start, found["state"])
    still = {name for name in start if name.startswith(f"network.{FROZEN}.")}
    assert len(still) == 5
    assert not trained & still
    assert {"network.bn1.running_mean", "network.bn1.running_var", "network.bn1.weight"} <= trained


def test_the_trainer_takes_it_with_sync_batchnorm():
    plugin = BatchNormSync()
    lightning = trainer(devices=2, strategy="ddp", sync_batchnorm=True, plugins=[plugin])
    assert lightning.strategy._layer_sync is plugin


@pytest.mark.parametrize(("device", "kind"), [("cpu", SyncBatchNorm), ("cuda", nn.SyncBatchNorm)])
def test_the_device_of_the_training_decides(device, kind):
    model = frozen_classifier()
    model.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    plugin = BatchNormSync()
    assert plugin.apply(model) is model
    assert batch_norms(model) == {kind}
    assert not model.train().network.layer1[0].bn1.training
    assert model.network.bn1.training
    assert plugin.revert(model) is model
    assert batch_norms(model) == {nn.BatchNorm2d}
