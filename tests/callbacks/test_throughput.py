"""Images/s and peak memory of every epoch, with a clock that the tests move."""

import csv
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from cbam_lightning.callbacks import throughput
from cbam_lightning.callbacks.throughput import PEAK, RATE, Throughput
from cbam_lightning.runs.metrics_file import MetricsFile
from tests.callbacks.resume.interrupting import TINY, SendSignal, at
from tests.command import call


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what a test adds to it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Timed(LightningModule):
    """A step takes 1 s, a batch of a validation 100 s."""

    def __init__(self, clock):
        super().__init__()
        self.layer, self.clock = torch.nn.Linear(3, 1), clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 1
        return self.layer(batch[0] if isinstance(batch, list) else batch["text"]).sum()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 100

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class SlowEnd(Callback):
    """Takes 1000 s where a checkpoint is saved, after a validation and after an epoch."""

    def on_validation_end(self, trainer, pl_module):
        pl_module.clock.now += 1000

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.clock.now += 1000


def loader(images=22):
    return DataLoader(TensorDataset(torch.zeros(images, 3), torch.zeros(images)), batch_size=4)


def logged(path, name):
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def trained(clock, training=None, validation=None, **options):
    """Train for two epochs; return what ``metrics.csv`` has, or None."""
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=MetricsFile(Path("metrics.csv")),
        callbacks=[Throughput(), SlowEnd()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Timed(clock), training or loader(), validation)
    return logged(Path("metrics.csv"), RATE) if Path("metrics.csv").is_file() else None


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 22 / 6),  # five batches of 4, one of 2
        ({"limit_train_batches": 3}, 12 / 3),
        ({"accumulate_grad_batches": 4}, 22 / 6),
        ({"validation": loader(), "num_sanity_val_steps": 1}, 22 / 6),
    ],
)
def test_images_by_the_seconds_of_training(clock, options, rate):
    assert trained(clock, **options) == pytest.approx([rate] * 2)


def test_validations_within_an_epoch_do_not_count(clock):
    # what follows the first one counts, as every save within an epoch does
    rates = trained(clock, validation=loader(), val_check_interval=3)
    assert rates == pytest.approx([22 / 1006] * 2)


def test_batches_without_images_have_no_rate(clock):
    texts = DataLoader([{"text": torch.zeros(3)}] * 8, batch_size=4)
    assert trained(clock, texts) is None


def test_a_cpu_has_no_peak_memory(clock):
    trained(clock)
    assert PEAK not in Path("metrics.csv").read_text()


class Counter:
    """Counts memory as ``torch.cuda`` does."""

    def __init__(self):
        self.now = self.peak = 0

    def reset_peak_memory_stats(self, device):
        self.peak = self.now

    def max_memory_allocated(self, device):
        return self.peak

    def take(self, size):
        self.now += size
        self.peak = max(self.now, self.peak)
        self.now -= size


def test_the_peak_of_an_epoch_is_not_that_of_an_earlier_one(clock, monkeypatch):
    counter, sizes = Counter(), iter([0.5e9, 3e9, 1e9, 0.25e9, 2e9, 0.5e9])
    monkeypatch.setattr(torch, "get_device_module", lambda device: counter)
    monkeypatch.setattr(
        Timed, "on_train_batch_start", lambda self, *_: counter.take(next(sizes)), raising=False
    )
    trained(clock, limit_train_batches=3)
    assert logged(Path("metrics.csv"), PEAK) == [3, 2]


def test_images_of_all_processes_by_the_longest_seconds_and_the_largest_peak(clock, monkeypatch):
    monkeypatch.setattr(throughput, "gather", lambda trainer, mine: [mine, (30, 13.0, 7e9)])
    rates = trained(clock)
    assert rates == pytest.approx([(22 + 30) / 13] * 2)
    assert logged(Path("metrics.csv"), PEAK) == [7, 7]


EPOCHS = "--run.test_after_fit false --trainer.max_epochs 2 --trainer.limit_train_batches 6 --run.name cut"
METRICS = Path("runs/default/cut/metrics.csv")


def test_a_resumed_epoch_counts_the_images_since_then(monkeypatch):
    # a second between two looks at the clock
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    assert call("fit", TINY, EPOCHS, at(SendSignal, 1, 3)) == 143
    assert logged(METRICS, RATE) == [6 * 32]
    assert call("resume", METRICS.parent) == 0
    assert logged(METRICS, RATE) == [6 * 32, 2 * 32]
