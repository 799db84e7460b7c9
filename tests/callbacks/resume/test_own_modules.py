"""A user's own module and data, broken off anywhere and resumed, end as if they had not been."""

import random
import signal

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, Sampler
from torchmetrics import MaxMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryF1Score

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.errors import RunStopped
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.metrics_file import MetricsFile
from tests.callbacks.resume.interrupting import differences

SIZE, BATCH, EPOCHS = 24, 4, 3
INPUTS = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(0))


class Augmented(Dataset):
    """Draws from all three global generators."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        noise = torch.randn(3) + np.random.rand() + random.random()  # noqa: NPY002
        return INPUTS[index] + 0.1 * noise, int(INPUTS[index].sum() > 0)


class OwnNoise(Augmented):
    """Draws from a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(3)

    def __getitem__(self, index):
        return INPUTS[index] + 0.1 * torch.tensor(self.generator.random(), dtype=torch.float32), index % 2


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self):
        for index in range(SIZE):
            yield INPUTS[index] + 0.1 * torch.randn(3), int(torch.rand(()) > 0.5)


class OwnOrder(Sampler):
    """Draws an index when it is asked for one."""

    def __init__(self):
        self.chance = random.Random(5)

    def __len__(self):
        return SIZE

    def __iter__(self):
        for _ in range(SIZE):
            yield (self.chance.randrange(SIZE) + int(torch.randint(SIZE, ()))) % SIZE


def seeded(number):
    return torch.Generator().manual_seed(number)


LOADERS = {
    "shuffled": lambda: DataLoader(Augmented(), BATCH, shuffle=True),
    "workers": lambda: DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2, persistent_workers=True),
    "generator": lambda: DataLoader(Augmented(), BATCH, shuffle=True, generator=seeded(7)),
    "own noise": lambda: DataLoader(OwnNoise(), BATCH, shuffle=True),
    "sampler": lambda: DataLoader(Augmented(), BATCH, sampler=OwnOrder()),
    "batch sampler": lambda: DataLoader(
        Augmented(), batch_sampler=BatchSampler(RandomSampler(range(SIZE), generator=seeded(9)), BATCH, False)
    ),
    "stream": lambda: DataLoader(Stream(), BATCH),
    "stream with workers": lambda: DataLoader(Stream(), BATCH, num_workers=2),
    "dictionary": lambda: {
        "a": DataLoader(Augmented(), BATCH, shuffle=True),
        "b": DataLoader(Augmented(), 2 * BATCH, shuffle=True),  # shorter: begins again in mid-epoch
    },
}


class Data(LightningDataModule):
    def __init__(self, name="shuffled"):
        super().__init__()
        self.name = name

    def train_dataloader(self):
        return LOADERS[self.name]()

    def val_dataloader(self):
        return DataLoader(Augmented(), BATCH, shuffle=True)


class Plain(LightningModule):
    """What people write: batch normalisation, dropout, averages, metrics."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.area, self.best = BinaryAUROC(), MaxMetric()
        self.shared = MetricCollection([BinaryAccuracy(), BinaryF1Score()])
        self.val_area = BinaryAUROC()

    def on_train_start(self):
        self.best.reset()  # of what the sanity check has left

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if isinstance(batch, dict):
            batch = [torch.cat(parts) for parts in zip(*batch.values(), strict=True)]
        inputs, labels = batch
        return inputs + 0.1 * torch.randn_like(inputs), labels

    def step(self, batch):
        inputs, labels = batch
        logits = self.network(inputs).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float()), logits, labels

    def training_step(self, batch, batch_idx):
        loss, logits, labels = self.step(batch)
        self.shared.update(logits.detach(), labels)
        self.area(logits.detach(), labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_auroc", self.area, on_step=False, on_epoch=True)
        self.log("train_worst", loss, on_step=False, on_epoch=True, reduce_fx=max)
        if batch_idx % 2 == 0:
            self.log("train_even", loss, on_step=True, on_epoch=True, reduce_fx="sum")
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.shared)

    def on_train_epoch_start(self):
        self.log("drawn", torch.rand(()))

    def on_validation_epoch_start(self):
        self.noise = torch.rand(())

    def validation_step(self, batch, batch_idx):
        loss, logits, labels = self.step(batch)
        self.val_area.update(logits + self.noise * torch.randn_like(logits), labels)
        self.log("val_auroc", self.val_area)
        self.log("val_loss", loss)

    def on_validation_epoch_end(self):
        self.best.update(self.val_area.compute())
        self.log("val_best", self.best.compute())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.rate)


class Manual(Plain):
    """Two optimisers, one of which steps after every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        first, second = self.optimizers()
        first.step()
        first.zero_grad()
        if batch_idx % 2:
            second.step()
            second.zero_grad()
        return {"anything": loss.detach()}

    def configure_optimizers(self):
        first, _, _, second = self.network
        optimisers = [torch.optim.SGD(part.parameters(), 0.1, momentum=0.9) for part in (first, second)]
        return optimisers, [torch.optim.lr_scheduler.StepLR(optimisers[0], 1)]


class Estimating(Plain):
    """Asks how long the training will be, for which Lightning reads the data before it loads its progress."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)]


class Break(Callback):
    """Send SIGTERM once, at the end of a batch."""

    def __init__(self, epoch, batch, stage):
        self.place = (epoch, batch, stage)

    def _send(self, trainer, batch, stage):
        if (trainer.current_epoch, batch, stage) == self.place and not trainer.sanity_checking:
            signal.raise_signal(signal.SIGTERM)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._send(trainer, batch_idx, "train")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._send(trainer, batch_idx, "val")


def train(run, module, data, stop=None, **options):
    """Train in a directory, from its last checkpoint if there is one; returns the module."""
    seed_everything(1, workers=True)
    io = AtomicCheckpointIO()
    last = run.last if run.last.is_file() else None
    points = torch.load(last, weights_only=True)["callbacks"]["Survival"]["points"] if last else {}
    seeds = StepSeeds()
    exact_resume = ExactResume(run, SaveOptions(), io, seeds)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=MetricsFile(run.metrics, points.get("MetricsFile", 0)),
        plugins=[io],
        callbacks=[exact_resume, seeds, *([Break(*stop)] if stop else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    module = module()
    trainer.fit(module, datamodule=data(), ckpt_path=last, weights_only=True)
    return module


def check(module, data, place, **options):
    whole, cut = (RunDirectory.create("runs", name) for name in ("whole", "cut"))
    expected = train(whole, module, data, **options)
    with pytest.raises(RunStopped):
        train(cut, module, data, place, **options)
    found = train(cut, module, data, **options)
    assert differences(whole.path, cut.path) == []
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("name", LOADERS)
def test_whatever_the_data_are(name):
    check(Plain, lambda: Data(name), (1, 2, "train"))


@pytest.mark.parametrize("name", ["shuffled", "stream"])
@pytest.mark.parametrize("place", [(1, 5, "train"), (0, 3, "val"), (0, 5, "val")], ids=str)
def test_wherever_it_stops(name, place):
    check(Plain, lambda: Data(name), place)


@pytest.mark.parametrize("name", ["shuffled", "stream"])
def test_a_training_that_knows_its_length(name):
    check(Estimating, lambda: Data(name), (1, 2, "train"), max_steps=15)


def test_several_optimisers_that_the_module_steps_itself():
    check(Manual, Data, (1, 2, "train"))  # with gradients of the second one


@pytest.mark.parametrize("place", [(1, 1, "train"), (1, 4, "val")], ids=str)
def test_a_validation_in_the_middle_of_an_epoch(place):
    check(Plain, Data, place, val_check_interval=0.5)


@pytest.mark.parametrize("name", ["shuffled", "own noise"])
def test_a_few_batches_that_are_overfitted(name):
    check(Plain, lambda: Data(name), (1, 1, "train"), overfit_batches=3)


def test_boring():
    check(BoringModel, BoringDataModule, (1, 3, "train"), limit_train_batches=8, limit_val_batches=2)
