"""A run that goes on with something changed: what is typed wins, at the place where the run is."""

import math
import signal
import tempfile
import warnings
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset

from cbam_lightning.callbacks.resume.checkpointing import AtomicCheckpointIO, SaveOptions
from cbam_lightning.callbacks.resume.exact_resume import ExactResume
from cbam_lightning.callbacks.step_seeds import StepSeeds
from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.loader import BatchLoader, TrainOrder
from cbam_lightning.errors import RunStopped, UsageError
from cbam_lightning.optim import Constant, MultiStep, TorchSchedule, WarmupCosine
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.tasks.image_task import ImageTask

IMAGES, PEAK = 64, 0.1


class Tiny(ImageTask):
    """A task whose batches are cheap."""

    monitor = "val/loss"
    data_class = LightningDataModule
    required_from_data = ()

    def __init__(self, optimizer=None, schedule=None, freeze=None, **options):
        given = {"lr_batch_size": None, "decay_norm_and_bias": True, **options}
        super().__init__(optimizer or partial(SGD, lr=PEAK), schedule, **given)
        self.network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.freeze_network(freeze)

    def training_step(self, batch, batch_idx):
        images = batch if isinstance(batch, torch.Tensor) else batch.images
        return self.network(images.float().flatten(1) / IMAGES).square().mean()

    def evaluation_step(self, batch, split):
        self.log("val/loss", 1.0)

    def log_evaluation(self, split): ...

    def predict_step(self, batch, batch_idx): ...


class Data(LightningDataModule):
    """Pictures of our loader, or of a plain one."""

    def __init__(self, batch_size=8, plain=False, count=IMAGES):
        super().__init__()
        self.batch_size, self.plain, self.count = batch_size, plain, count

    def train_dataloader(self):
        if self.plain:
            return DataLoader(Numbers(self.count), self.batch_size, shuffle=True)
        pixels = torch.ones(self.count, 1, 2, 2, dtype=torch.uint8)
        images = ArrayDataset(pixels, torch.zeros(self.count).long())
        return BatchLoader(images, TrainOrder(images, self.batch_size, seed=3), num_workers=0)

    def val_dataloader(self):
        return DataLoader(Numbers(4), 4)


class Numbers(Dataset):
    """Item i is four times i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((4,), index)


class Record(Callback):
    """Notes which images were seen, and the rate of every step with the images seen before it."""

    def __init__(self, stop_after=None, seen=(), rates=()):
        self.stop_after, self.seen, self.rates = stop_after, list(seen), list(rates)
        self.before_step = len(self.seen)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        indices = batch[:, 0].long() if isinstance(batch, torch.Tensor) else batch.indices
        self.seen += indices.tolist()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append((self.before_step, optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.fit_loop._should_accumulate():
            self.before_step = len(self.seen)
            if trainer.global_step == self.stop_after:
                signal.raise_signal(signal.SIGTERM)


def train(run, module, data, record, *callbacks, epochs=4, limits="", **options):
    """Train in a directory, from its last checkpoint if there is one; returns the trainer."""
    seed_everything(1, workers=True)
    io, seeds = AtomicCheckpointIO(), StepSeeds()
    exact_resume = ExactResume(run, SaveOptions(), io, seeds, limits)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        plugins=[io],
        callbacks=[exact_resume, seeds, *callbacks, record],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    ckpt_path = run.last if run.last.is_file() else None
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def new_run():
    return RunDirectory.create(tempfile.mkdtemp(dir="."), "changed")


def stopped_and_resumed(before, after, stop_after):
    """Train with some options, stop after a step, and go on with others; returns the record of both.

    Args:
        before: Options of ``Tiny``, ``Data`` and the trainer, a dictionary for each.
        after: The same for the resumed run.
        stop_after: Optimiser steps.
    """
    run, first = new_run(), Record(stop_after)
    with pytest.raises(RunStopped):
        train(run, Tiny(**before[0]), Data(**before[1]), first, **before[2])
    second = Record(None, first.seen, first.rates)
    trainer = train(run, Tiny(**after[0]), Data(**after[1]), second, **after[2])
    return second, len(first.rates), trainer


SCHEDULES = {
    "cosine": WarmupCosine(1, 0.1, 0.05),
    "cosine by epoch": WarmupCosine(1, 0.1, 0.05, interval="epoch"),
    "steps": MultiStep([1.5, 3], 0.1, interval="step"),
    "milestones": MultiStep([2, 3]),
    "constant": Constant(2.5),
}


def expected_rate(schedule, images, epochs):
    place = images / IMAGES
    return PEAK * schedule.factor(math.floor(place) if schedule.interval == "epoch" else place, epochs)


CHANGES = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([4, 8, 16, 32]),
        "accumulated": st.sampled_from([1, 2, 4]),
        "epochs": st.sampled_from([4, 4, 6]),
        "schedule": st.sampled_from(sorted(SCHEDULES)),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(before=CHANGES, after=CHANGES, share=st.integers(1, 31))
@example(  # 24 images of the second epoch are done, less than one of the new batches
    before={"batch_size": 4, "accumulated": 1, "epochs": 4, "schedule": "constant"},
    after={"batch_size": 32, "accumulated": 2, "epochs": 6, "schedule": "constant"},
    share=11,
)
def test_wherever_it_stops_and_whatever_changes_the_rate_is_that_of_the_images_seen(before, after, share):
    steps_per_epoch = max(1, IMAGES // before["batch_size"] // before["accumulated"])
    options = [
        (
            {"schedule": SCHEDULES[each["schedule"]]},
            {"batch_size": each["batch_size"]},
            {"epochs": each["epochs"], "accumulate_grad_batches": each["accumulated"]},
        )
        for each in (before, after)
    ]
    stop_after = max(1, share * steps_per_epoch * 4 // 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record, seam, _ = stopped_and_resumed(*options, stop_after)
    for number, (images, rate) in enumerate(record.rates):
        given = before if number < seam else after
        expected = expected_rate(SCHEDULES[given["schedule"]], images, given["epochs"])
        assert rate == pytest.approx(expected, abs=1e-9), (number, images)
    assert len(record.seen) == after["epochs"] * IMAGES
    for epoch in range(after["epochs"]):
        assert sorted(record.seen[epoch * IMAGES :][:IMAGES]) == list(range(IMAGES)), epoch


def rates_of(before, after, stop_after=16):
    """Return the rates after the stop, for options of ``Tiny``, ``Data`` and the trainer."""
    filled = [[*each, *[{}] * (3 - len(each))] for each in (before, after)]
    record, seam, trainer = stopped_and_resumed(*filled, stop_after)
    return [rate for _, rate in record.rates[seam:]], trainer


def torch_schedule(scheduler, interval="epoch", **options):
    return {"schedule": TorchSchedule(partial(scheduler, **options), interval)}


def rates_of_a_whole_run(scheduler, steps, interval=1, **options):
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    schedule, rates = scheduler(optimizer, **options), []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % interval == 0:
            schedule.step()
    return rates


@pytest.mark.parametrize(
    ("before", "after", "whole"),
    [
        (
            torch_schedule(CosineAnnealingLR, T_max=4),
            torch_schedule(CosineAnnealingLR, T_max=8),
            rates_of_a_whole_run(CosineAnnealingLR, 64, 8, T_max=8),
        ),
        (
            torch_schedule(StepLR, step_size=100),
            torch_schedule(StepLR, step_size=1),
            rates_of_a_whole_run(StepLR, 64, 8, step_size=1),
        ),
        (
            torch_schedule(CosineAnnealingLR, T_max=4),
            torch_schedule(StepLR, "step", step_size=20),
            rates_of_a_whole_run(StepLR, 64, step_size=20),
        ),
        (
            {"schedule": WarmupCosine()},
            torch_schedule(StepLR, step_size=3),
            rates_of_a_whole_run(StepLR, 64, 8, step_size=3),
        ),
        (torch_schedule(StepLR, step_size=1), {"schedule": Constant()}, [PEAK] * 64),
    ],
)
@pytest.mark.parametrize("stop_after", [16, 19])
def test_another_schedule_goes_on_as_if_it_had_been_there_from_the_start(before, after, whole, stop_after):
    rates, _ = rates_of([before], [after, {}, {"epochs": 8}], stop_after)
    assert rates == pytest.approx(whole[stop_after:], abs=1e-12)


def test_another_schedule_and_another_batch_size():
    schedules = [torch_schedule(CosineAnnealingLR, "step", T_max=steps) for steps in (32, 16)]
    rates, _ = rates_of([schedules[0]], [schedules[1], {"batch_size": 16}])
    assert rates == pytest.approx(rates_of_a_whole_run(CosineAnnealingLR, 16, T_max=16)[8:], abs=1e-12)


def test_a_schedule_of_steps_goes_on_counting_when_the_steps_change_and_that_is_told():
    schedule = torch_schedule(CosineAnnealingLR, "step", T_max=32)
    with pytest.warns(UserWarning, match="an epoch has 4 steps, before 8: it goes on counting steps"):
        rates, _ = rates_of([schedule], [schedule, {"batch_size": 16}])
    assert rates == pytest.approx(rates_of_a_whole_run(CosineAnnealingLR, 32, T_max=32)[16:24], abs=1e-12)


def test_a_plateau_goes_on_with_other_options_and_what_it_has_seen():
    before, after = (
        torch_schedule(ReduceLROnPlateau, patience=patience, factor=0.5) for patience in (100, 1)
    )
    rates, trainer = rates_of([before], [after, {}, {"epochs": 5}])
    # val/loss is always 1: the second epoch was the first bad one, the third is one more than allowed
    assert rates == [PEAK] * 8 + [PEAK / 2] * 16
    assert trainer.lr_scheduler_configs[0].scheduler.patience == 1


def test_a_plateau_keeps_its_reductions_with_other_options_and_with_another_optimiser():
    reducing = [torch_schedule(ReduceLROnPlateau, patience=0, factor=factor) for factor in (0.5, 0.1)]
    # val/loss never falls: reduced after every epoch but the first
    rates, _ = rates_of([reducing[0]], [reducing[1]], stop_after=19)
    assert rates == pytest.approx([PEAK / 2] * 5 + [PEAK / 20] * 8)
    other = {"optimizer": partial(AdamW, lr=PEAK)}
    with pytest.warns(UserWarning, match="starts anew"):
        rates, _ = rates_of([reducing[0]], [reducing[0] | other], stop_after=19)
    assert rates == pytest.approx([PEAK / 2] * 5 + [PEAK / 4] * 8)


def test_a_schedule_that_ends_too_early_is_refused_at_once():
    before, after = (torch_schedule(OneCycleLR, "step", max_lr=1, total_steps=steps) for steps in (99, 10))
    with pytest.raises(UsageError, match="total_steps is 10, and is stepped 32 times"):
        rates_of([before], [after])


def test_a_rate_for_another_batch_size_is_scaled():
    before, after = ({"lr_batch_size": size, "schedule": Constant()} for size in (8, 80))
    assert rates_of([before], [after])[0] == pytest.approx([PEAK / 10] * 16)
    same = [before, {"batch_size": 8}], [before, {"batch_size": 32}]
    assert rates_of(*same)[0] == pytest.approx([4 * PEAK] * 4)


def test_an_unchanged_run_keeps_what_a_callback_has_made_of_the_optimiser():
    class LessMomentum(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.optimizers[0].param_groups[0]["momentum"] = 0.25

    options = {"optimizer": partial(SGD, lr=PEAK, momentum=0.5)}
    run = new_run()
    with pytest.raises(RunStopped):
        train(run, Tiny(**options), Data(), Record(10), LessMomentum())
    trainer = train(run, Tiny(**options), Data(), Record())
    assert trainer.optimizers[0].param_groups[0]["momentum"] == 0.25


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ({"optimizer": partial(AdamW, lr=PEAK)}, "it was SGD and is AdamW"),
        ({"decay_norm_and_bias": False}, "its parameters are grouped or frozen otherwise"),
        ({"freeze": "0"}, "its parameters are grouped or frozen otherwise"),
    ],
)
def test_an_optimiser_that_does_not_fit_starts_anew_at_its_place_in_the_schedule(after, told):
    before = {"optimizer": partial(SGD, lr=PEAK, momentum=0.9)}
    with pytest.warns(UserWarning, match="the optimiser starts anew, without momenta: " + told):
        rates, trainer = rates_of([before], [before | after])
    assert rates == pytest.approx(
        [PEAK * WarmupCosine().factor(2 + step / 8, 4) for step in range(16)], abs=1e-12
    )
    (optimizer,) = trainer.optimizers
    assert type(optimizer).__name__ == ("AdamW" if "AdamW" in told else "SGD")


def test_an_optimiser_starts_anew_with_a_schedule_of_torch():
    before, after = ({"optimizer": partial(kind, lr=PEAK)} for kind in (SGD, AdamW))
    schedule = torch_schedule(StepLR, step_size=1, gamma=0.5)
    with pytest.warns(UserWarning, match="starts anew"):
        rates, _ = rates_of([before | schedule], [after | schedule])
    assert rates == pytest.approx([PEAK / 4] * 8 + [PEAK / 8] * 8)


@pytest.mark.parametrize(("batch_size", "batches"), [(4, 8), (16, 2), (8, 4)])
def test_a_plain_loader_goes_on_at_the_same_image(batch_size, batches):
    filled = [{}, {"plain": True}, {}], [{}, {"plain": True, "batch_size": batch_size}, {}]
    record, seam, _ = stopped_and_resumed(*filled, stop_after=12)
    assert len([images for images, _ in record.rates[seam:] if images < 2 * IMAGES]) == batches
    assert sorted(record.seen[IMAGES : 2 * IMAGES]) == list(range(IMAGES))
    expected = [WarmupCosine().factor(images / IMAGES, 4) for images, _ in record.rates]
    assert [rate for _, rate in record.rates] == pytest.approx([PEAK * e for e in expected], abs=1e-12)


def test_a_plain_loader_that_cannot_go_on_at_the_same_image_is_refused():
    filled = [{}, {"plain": True}, {}], [{}, {"plain": True, "batch_size": 16}, {}]
    with pytest.raises(UsageError, match="after 3 batches of 8 images on all devices; with batches of 16 it"):
        stopped_and_resumed(*filled, stop_after=11)


def test_steps_limit_a_training_whose_steps_have_changed():
    limited = {"epochs": -1, "max_steps": 24}
    record, seam, _ = stopped_and_resumed([{}, {}, limited], [{}, {"batch_size": 16}, limited], stop_after=16)
    assert len(record.rates) == 24  # eight more steps are two more epochs
    places = [2 + step / 4 for step in range(8)]
    expected = [PEAK * WarmupCosine().factor(place, 4) for place in places]
    assert [rate for _, rate in record.rates[seam:]] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scheduling", [{0: 1, 2: 4}, {0: 4, 1: 1}, {1: 2}])
@pytest.mark.parametrize("stop_after", [None, 1, 5, 9, 17])
@pytest.mark.parametrize("by", ["epochs", "steps"])
def test_accumulation_that_changes_from_epoch_to_epoch(scheduling, stop_after, by):
    accumulated = GradientAccumulationScheduler(dict(scheduling)).get_accumulate_grad_batches
    places = [
        epoch + step * accumulated(epoch) / 8 for epoch in range(4) for step in range(8 // accumulated(epoch))
    ]
    limits = {"epochs": 4} if by == "epochs" else {"epochs": -1, "max_steps": len(places)}
    run, record = new_run(), Record(stop_after)
    if stop_after is not None:
        with pytest.raises(RunStopped):
            train(run, Tiny(), Data(), record, GradientAccumulationScheduler(dict(scheduling)), **limits)
    record = Record(None, record.seen, record.rates)
    trainer = train(run, Tiny(), Data(), record, GradientAccumulationScheduler(dict(scheduling)), **limits)
    expected = [PEAK * WarmupCosine().factor(place, 4) for place in places]
    assert [rate for _, rate in record.rates] == pytest.approx(expected, abs=1e-12)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


class Counts(TorchSchedule):
    """A schedule of a user's, who was told the number of steps in an epoch."""

    def __init__(self): ...

    def build(self, optimizer, steps_per_epoch, max_epochs):
        scheduler = CosineAnnealingLR(optimizer, T_max=int(steps_per_epoch * max_epochs))
        return {"scheduler": scheduler, "interval": "step"}


@pytest.mark.parametrize("schedule", [None, Counts()])
@pytest.mark.parametrize("stop_after", [None, 10])
def test_a_batch_size_that_is_searched_for_gives_the_steps_of_the_schedule(schedule, stop_after):
    options = {"schedule": schedule, "lr_batch_size": 8}
    run, record, data = new_run(), Record(stop_after), Data(4)
    finder = BatchSizeFinder(init_val=8, max_trials=2, margin=0)  # it doubles once
    if stop_after is None:
        train(run, Tiny(**options), data, record, finder)
    else:
        with pytest.raises(RunStopped):
            train(run, Tiny(**options), data, record, finder)
        record = Record(None, record.seen, record.rates)
        train(run, Tiny(**options), Data(data.batch_size), record)
    assert data.batch_size == 16
    places = [step / 4 for step in range(16)]
    shape = (
        WarmupCosine().factor if schedule is None else lambda at, end: (1 + math.cos(math.pi * at / end)) / 2
    )
    expected = [2 * PEAK * shape(place, 4) for place in places]
    assert [rate for _, rate in record.rates][-16:] == pytest.approx(expected, abs=1e-12)
