"""Two processes agree on what they do without waiting for each other at every step."""

import json
import os
import signal
from collections import Counter

import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.loggers import CSVLogger
from torch import distributed

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.errors import RunStopped
from cbam_lightning.runs.directory import RunDirectory
from tests.processes import fork, wait
from tests.tasks.small import batch, batches, classifier, trainer

WAITING = ("all_reduce", "barrier", "broadcast", "all_gather_object", "all_gather", "reduce")


class Events(Callback):
    """Counts what processes wait for at each step; in the second one, something happens in a step."""

    def __init__(self, happens=None, step=3):
        self.happens, self.step, self.counts, self.calls = happens, step, [], Counter()
        for name in WAITING:
            setattr(distributed, name, self.counted(name, getattr(distributed, name)))

    def counted(self, name, function):
        def count(*arguments, **options):
            self.calls["async" if options.get("async_op") else name] += 1
            return function(*arguments, **options)

        return count

    def on_train_epoch_start(self, trainer, pl_module):
        self.calls.clear()

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.counts.append(dict(self.calls))
        self.calls.clear()
        if self.happens == "signal" and trainer.global_rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Pictures(LightningDataModule):
    """Two images a step, of 12 steps, and their names."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def train_dataloader(self):
        return batches(*self.data)

    def sample_name(self, split, index):
        return f"{split}-{int(index)}"


def fit(folder, rank, happens):
    """Train 12 steps of 2 images in this process."""
    data = [batch(2, 4 * step + 2 * rank) for step in range(12)]
    if happens == "loss" and rank:
        data[3].images[0] = float("nan")
    run, events, seeds = RunDirectory(folder), Events(happens), StepSeeds()
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    resume = ExactResume(run, SaveOptions(), AtomicCheckpointIO(), seeds)
    training = trainer(
        *(resume, seeds, events),
        strategy="ddp",
        devices=2,
        logger=CSVLogger(folder),
        log_every_n_steps=4,
        enable_progress_bar=True,
        use_distributed_sampler=False,
    )
    stop = None
    try:
        training.fit(classifier(attention="none"), datamodule=Pictures(data))
    except RunStopped as error:
        stop = (str(error), error.exit_code)
    losses = training.callback_metrics["train/loss"].item() if stop is None else None
    return {"counts": events.counts, "step": training.global_step, "stop": stop, "loss": losses}


def process(rank, folder, port, happens):
    torch.set_num_threads(1)
    place = {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= place | {"NODE_RANK": "0"}
    torch.save(fit(folder, rank, happens), folder / f"{rank}.pt")


def in_two_processes(folder, happens=None):
    """Return what both found; see ``tests/processes.py``."""
    port = str(distributed.TCPStore("127.0.0.1", 0, is_master=True).port)
    processes = [fork(process, rank, folder, port, happens) for rank in range(2)]
    assert [wait(process) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_steps_between_the_intervals_share_no_result(tmp_path):
    one, other = in_two_processes(tmp_path)
    assert one["step"] == other["step"] == 12
    assert one["loss"] == other["loss"]
    assert one["counts"] == other["counts"]
    for step, calls in enumerate(one["counts"]):
        waited_for = Counter(calls) - Counter({"async": 1})
        # the logger's steps, and the last of the epoch
        assert bool(waited_for) == ((step + 1) % 4 == 0), (step, calls)


def test_a_signal_to_one_stops_both_at_the_same_step(tmp_path):
    one, other = in_two_processes(tmp_path, "signal")
    # it comes in the fourth step, is sent after it, and heard one step later
    assert one["step"] == other["step"] == 5
    assert one["stop"][1] == 128 + signal.SIGTERM
    assert "stopped after step 5, with everything saved" in one["stop"][0]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_a_bad_loss_of_one_stops_both_and_is_named(tmp_path):
    one, other = in_two_processes(tmp_path, "loss")
    assert one["step"] == other["step"] == 5
    assert one["stop"][1] == 3
    assert "the loss became NaN or Inf (nan) at step 4, epoch 0, batch 3" in one["stop"][0]
    report = json.loads((tmp_path / "divergence.json").read_text())
    assert report["images"] == ["train-12", "train-13", "train-14", "train-15"]
    assert not (tmp_path / "checkpoints/last.ckpt").exists()
