"""What Lightning's loop costs: images/s of ``fit`` against a plain PyTorch loop."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from tqdm import tqdm

from cbam_lightning.data import FashionMNIST, ImageDataModule
from cbam_lightning.errors import UsageError
from cbam_lightning.tasks.classifier import Classifier

# The first steps allocate memory and choose algorithms.
_WARMUP_STEPS = 2


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
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
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


def benchmark_loop(network: str, attention: str, batch_size: int, steps: int, repeats: int) -> str:
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
        A table: median, minimum and maximum of images/s, and the ratio of the medians.

    Raises:
        UsageError: A number is below 1 or a name is unknown.
    """
    if min(batch_size, steps, repeats) < 1:
        message = f"batch size {batch_size}, steps {steps}, repeats {repeats}: allowed are 1 and more."
        raise UsageError(message)
    data = FashionMNIST(batch_size=batch_size)
    data.setup("fit")
    loops = {"plain loop": _time_plain, "fit": _time_fit}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in tqdm(range(repeats), desc="measuring", leave=False):
        for name, measure in loops.items():
            seed_everything(0, verbose=False)
            model = Classifier(network, attention, num_classes=data.num_classes, in_channels=data.in_channels)
            rates[name].append(steps * batch_size / measure(model, data, steps))
    setting = f"batch {batch_size}, {steps} steps x {repeats}, {torch.get_num_threads()} threads"
    return f"{network} + {attention}, {setting}\n{_table(rates)}"


def _table(rates: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"{'images/s':<12}{'median':>9}{'min':>9}{'max':>9}"]
    for name, values in rates.items():
        lines.append(f"{name:<12}{medians[name]:>9.1f}{min(values):>9.1f}{max(values):>9.1f}")
    return "\n".join([*lines, f"fit / plain loop: {medians['fit'] / medians['plain loop']:.3f}"])
