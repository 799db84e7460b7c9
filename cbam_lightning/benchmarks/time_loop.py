"""The overhead of Lightning's loop: images/s of ``fit`` and of a plain PyTorch loop."""

from __future__ import annotations

import io
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback, LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger

from cbam_lightning.benchmarks.measurements import Report, collect
from cbam_lightning.benchmarks.options import LoopOptions
from cbam_lightning.benchmarks.timing import in_turns
from cbam_lightning.data import FashionMNIST, ImageDataModule
from cbam_lightning.tasks.classifier import Classifier

# The first steps allocate memory and choose algorithms.
_WARMUP_STEPS = 2
_PLAIN, _FIT = "plain loop", "fit"


def _time_fit(model: Classifier, data: ImageDataModule, steps: int) -> float:
    times: list[float] = []

    def start(trainer: Trainer, *hook_arguments: Any) -> None:
        if trainer.global_step == _WARMUP_STEPS:
            times.append(time.perf_counter())

    def stop(*hook_arguments: Any) -> None:
        times.append(time.perf_counter())

    clock = LambdaCallback(on_train_batch_start=start, on_train_end=stop)
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
    return times[1] - times[0]


@contextmanager
def _silence() -> Iterator[None]:
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings(action="ignore"):
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _time_plain(model: Classifier, data: ImageDataModule, steps: int) -> float:
    network = model.network.train()
    optimizer = model.optimizer(network.parameters())
    epochs = itertools.repeat(data.train_dataloader())
    batches = itertools.islice(itertools.chain.from_iterable(epochs), steps + _WARMUP_STEPS)
    started = 0.0
    for step, cpu_batch in enumerate(batches):
        if step == _WARMUP_STEPS:
            started = time.perf_counter()
        batch: Any = data.on_after_batch_transfer(cpu_batch, 0)
        loss = F.cross_entropy(network(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - started


def time_loop(options: LoopOptions) -> list[Report]:
    """Compare ``fit`` with a plain loop over the same loader and network on the CPU, alternately.

    Both loops start from the same weights. ``fit`` runs with its defaults: metrics, learning-rate schedule,
    logging and progress bar.

    Returns:
        A report: images/s of both loops, with the plain loop as the baseline.

    Raises:
        UsageError: A name is unknown.
    """
    data = FashionMNIST(batch_size=options.batch_size)
    data.setup("fit")

    def measure(loop: Callable[[Classifier, ImageDataModule, int], float]) -> float:
        seed_everything(0, verbose=False)
        model = Classifier(
            options.network, options.attention, num_classes=data.num_classes, in_channels=data.in_channels
        )
        return loop(model, data, options.steps)

    loops = {_PLAIN: partial(measure, _time_plain), _FIT: partial(measure, _time_fit)}
    images, group = options.steps * options.batch_size, f"batch {options.batch_size}, {options.steps} steps"
    rows = collect(group, in_turns(loops, options.repeats), lambda seconds: images / seconds)
    title, setting = f"{options.network} + {options.attention}, training loop", {"repeats": options.repeats}
    return [Report("loop", title, "images/s", rows, _PLAIN, lower_is_better=False, setting=setting)]
