"""What Lightning's loop costs: images/s of ``fit`` against a plain PyTorch loop."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from cbam_lightning.benchmarks import Report, Row, in_turns
from cbam_lightning.data import FashionMNIST, ImageDataModule
from cbam_lightning.errors import UsageError
from cbam_lightning.tasks.classifier import Classifier

# The first steps allocate memory and choose algorithms.
_WARMUP_STEPS = 2
_PLAIN, _FIT = "plain loop", "fit"


class _Clock(Callback):
    """Time the steps of ``fit`` after the warm-up, with all that happens between them."""

    seconds = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock after the warm-up."""
        if trainer.global_step == _WARMUP_STEPS:
            self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self.started


def _time_fit(model: Classifier, data: ImageDataModule, steps: int) -> float:
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder, _silence():
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps + _WARMUP_STEPS,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            callbacks=[clock, LearningRateMonitor(), TQDMProgressBar()],
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
    return clock.seconds


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _time_plain(model: Classifier, data: ImageDataModule, steps: int) -> float:
    network = model.network.train()
    optimizer = model.optimizer(network.parameters())
    loader = data.train_dataloader()
    done, started = 0, 0.0
    while True:
        for cpu_batch in loader:
            if done == _WARMUP_STEPS:
                started = time.perf_counter()
            batch: Any = data.on_after_batch_transfer(cpu_batch, 0)
            loss = F.cross_entropy(network(batch.images), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            if done == steps + _WARMUP_STEPS:
                return time.perf_counter() - started


def benchmark_loop(
    network: str = "resnet20",
    attention: str = "cbam",
    batch_size: int = 128,
    steps: int = 20,
    repeats: int = 7,
) -> Report:
    """Compare ``fit`` with a plain loop over the same loader and network on the CPU.

    Both loops start from the same weights and alternate. ``fit`` runs with all that it does by default:
    metrics, learning-rate schedule, logging and progress bar.

    Args:
        network: Name for ``create_model``.
        attention: Name for ``create_attention``.
        batch_size: Images in a batch.
        steps: Training steps in each measurement.
        repeats: Measurements of each loop.

    Returns:
        Images/s of both loops, with the plain loop as the baseline.

    Raises:
        UsageError: A number is below 1 or a name is unknown.
    """
    if min(batch_size, steps, repeats) < 1:
        message = f"batch size {batch_size}, steps {steps}, repeats {repeats}: allowed are 1 and more."
        raise UsageError(message)
    data = FashionMNIST(batch_size=batch_size)
    data.setup("fit")

    def measure(loop: Callable[[Classifier, ImageDataModule, int], float]) -> float:
        seed_everything(0, verbose=False)
        model = Classifier(network, attention, num_classes=data.num_classes, in_channels=data.in_channels)
        return loop(model, data, steps)

    seconds = in_turns({_PLAIN: partial(measure, _time_plain), _FIT: partial(measure, _time_fit)}, repeats)
    images, group = steps * batch_size, f"batch {batch_size}, {steps} steps"
    rows = [Row(group, name, [images / value for value in values]) for name, values in seconds.items()]
    title, setting = f"{network} + {attention}, training loop", {"repeats": repeats}
    return Report("loop", title, "images/s", rows, _PLAIN, lower_is_better=False, setting=setting)
