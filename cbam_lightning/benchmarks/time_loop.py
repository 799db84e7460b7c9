"""The overhead of Lightning's loop: images/s of ``fit`` and of a plain PyTorch loop."""

from __future__ import annotations

import copy
import io
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import LearningRateMonitor, TQDMProgressBar

from cbam_lightning.benchmarks.clocks import synchronize
from cbam_lightning.benchmarks.compiling import choose_modes
from cbam_lightning.benchmarks.machine import LAYOUTS, autocast, choose_device, set_threads
from cbam_lightning.benchmarks.measurements import Measurement, Report, collect
from cbam_lightning.benchmarks.options import COMPILED, LoopOptions
from cbam_lightning.benchmarks.timing import in_turns
from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.callbacks.throughput import Throughput
from cbam_lightning.data import FashionMNIST, ImageDataModule
from cbam_lightning.errors import RunStopped
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.metrics_file import MetricsFile
from cbam_lightning.tasks.classifier import Classifier

# The first steps allocate memory, choose algorithms, compile, and record CUDA graphs.
_WARMUP_STEPS = 3
_PLAIN, _FIT = "plain loop", "fit"
_LIGHTNING_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

_Loop = Callable[[Classifier, ImageDataModule, LoopOptions, torch.device], float]


def time_loop(options: LoopOptions) -> list[Report]:
    """Compare ``fit`` with a plain loop over the same loader and network, alternately.

    Both loops start from the same weights. ``fit`` runs with what the command adds to it: metrics,
    learning-rate schedule, exact resume, logging to ``metrics.csv`` and progress bar; there is no validation,
    and saving between epochs is not timed. A network that is compiled is a group of its own.

    Returns:
        A report: images/s of both loops, with the plain loop as the baseline.

    Raises:
        UsageError: A name is unknown, or there is no compiler, or no CUDA graphs.
    """
    set_threads(options.threads)
    device = choose_device(options.device)
    modes = choose_modes(options.compile_mode, device)
    data = FashionMNIST(batch_size=options.batch_size)
    data.setup("fit")
    rows: list[Measurement] = []
    images = options.steps * options.batch_size
    for memory_format, mode in itertools.product(dict.fromkeys(options.memory_format), (None, *modes)):
        group = f"batch {options.batch_size}, {options.steps} steps, {memory_format}"
        seed_everything(0, verbose=False)
        model = Classifier(
            options.network,
            options.attention,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            channels_last=memory_format == "channels_last",
        )
        if mode:
            group = f"{group}, {COMPILED[mode]}"
            torch.compiler.reset()
            model.network.compile(mode=mode, dynamic=False)
        start = copy.deepcopy(model.state_dict())
        measures = {
            name: partial(_run, loop, model, start, data, options, device)
            for name, loop in {_PLAIN: _time_plain, _FIT: _time_fit}.items()
        }
        rows += collect(group, in_turns(measures, options.repeats, group), lambda seconds: images / seconds)
    title = f"{options.network} + {options.attention}, training loop"
    return [Report("loop", title, "images/s", rows, _PLAIN, lower_is_better=False, setting=options.setting)]


def _run(
    loop: _Loop,
    model: Classifier,
    start: dict[str, Any],
    data: ImageDataModule,
    options: LoopOptions,
    device: torch.device,
) -> float:
    """Run a loop from the start, and return its seconds."""
    seed_everything(0, verbose=False)
    model.load_state_dict(start)
    return loop(model, data, options, device)


class _Clock(Callback):
    """The seconds of the epochs after the warm-up, each until the device is done."""

    def __init__(self) -> None:
        self.seconds = self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, *hook_arguments: Any) -> None:
        if trainer.global_step == _WARMUP_STEPS:
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *hook_arguments: Any) -> None:
        synchronize(trainer.strategy.root_device)
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, *hook_arguments: Any) -> None:
        if trainer.global_step > _WARMUP_STEPS:
            synchronize(trainer.strategy.root_device)
            self.seconds += time.perf_counter() - self._started


def _time_fit(model: Classifier, data: ImageDataModule, options: LoopOptions, device: torch.device) -> float:
    clock, seeds, checkpoint_io = _Clock(), StepSeeds(), AtomicCheckpointIO()
    with tempfile.TemporaryDirectory() as folder, _silence():
        run = RunDirectory(Path(folder))
        resume = ExactResume(run, SaveOptions(), checkpoint_io, seeds)
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            precision=_LIGHTNING_PRECISIONS[options.precision],
            max_steps=options.steps + _WARMUP_STEPS,
            limit_val_batches=0,
            logger=MetricsFile(run.metrics),
            plugins=[checkpoint_io],
            # the clock comes after what saves at the start of an epoch
            callbacks=[resume, seeds, clock, Throughput(), LearningRateMonitor(), TQDMProgressBar()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(model, datamodule=data)
        except RunStopped as stop:
            raise RunStopped("", stop.exit_code) from None  # there is nothing to resume
    return clock.seconds


@contextmanager
def _silence() -> Iterator[None]:
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings(action="ignore"):
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _time_plain(
    model: Classifier, data: ImageDataModule, options: LoopOptions, device: torch.device
) -> float:
    model.to(device)
    network = model.network.train()
    layout = LAYOUTS["channels_last" if model.channels_last else "channels_first"]
    optimizer = model.optimizer(network.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
    epochs = itertools.repeat(data.train_dataloader())
    batches = itertools.islice(itertools.chain.from_iterable(epochs), options.steps + _WARMUP_STEPS)
    started = 0.0
    for step, cpu_batch in enumerate(batches):
        if step == _WARMUP_STEPS:
            synchronize(device)
            started = time.perf_counter()
        batch: Any = data.on_after_batch_transfer(data.transfer_batch_to_device(cpu_batch, device, 0), 0)
        with autocast(device, options.precision):
            logits = network(batch.images.contiguous(memory_format=layout))
            loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    synchronize(device)
    return time.perf_counter() - started
