"""Learning rates against the formulas they are named after."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, DistributedSampler

from cbam_lightning.data.arrays import ArrayDataset
from cbam_lightning.data.loader import BatchLoader, TrainOrder
from cbam_lightning.errors import UsageError
from cbam_lightning.optim import Constant, MultiStep, TorchSchedule, WarmupCosine
from cbam_lightning.optim.place import max_epochs, steps_per_epoch
from tests.tasks.small import classifier, loader, trainer

PEAK = 0.05  # of small.PLAIN_SGD


class Rates(Callback):
    """Notes the learning rate each optimiser step is made with, and each epoch ends with."""

    def __init__(self):
        self.steps = []
        self.epochs = []
        self.planned = None

    def on_train_start(self, trainer, pl_module):
        self.planned = steps_per_epoch(trainer)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_of_a_run(schedule, train=None, val=None, **options):
    rates = Rates()
    run = trainer(rates, **options)
    run.fit(classifier(schedule=schedule), train or loader(20), val)
    return rates, run


def built_rates(schedule, steps, epochs, count):
    """Return the rates of the first ``count`` steps of the scheduler, for a peak of 1."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    configuration = schedule.build(optimizer, steps, epochs)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        configuration["scheduler"].step()
    return rates, configuration["interval"]


def cosine(epoch, epochs, warmup, start, final):
    if epoch < warmup:
        return start * (1 - epoch / warmup) + epoch / warmup
    return final + (1 - final) * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


@pytest.mark.parametrize(
    ("warmup", "start", "final"), [(0, 0.01, 0), (1, 0.01, 0), (2.5, 0.0, 0.1), (5, 1.0, 1.0), (3, 0.3, 0.02)]
)
def test_warmup_cosine_is_its_formula_at_every_epoch(warmup, start, final):
    schedule = WarmupCosine(warmup, start, final)
    for epoch in (i / 16 for i in range(16 * 20 + 1)):
        assert schedule.factor(epoch, 20) == pytest.approx(cosine(epoch, 20, warmup, start, final), abs=1e-12)


def test_warmup_cosine_at_its_corners():
    schedule = WarmupCosine(warmup_epochs=2, warmup_factor=0.1, final_factor=0.25)
    points = {0: 0.1, 1: 0.55, 2: 1.0, 6: 0.625, 10: 0.25, 11: 0.25, 1000: 0.25}
    assert {epoch: schedule.factor(epoch, 10) for epoch in points} == pytest.approx(points, abs=1e-12)
    quarter = 0.25 + 0.75 * (1 + math.sqrt(0.5)) / 2
    assert schedule.factor(4, 10) == pytest.approx(quarter, abs=1e-12)


def test_a_training_shorter_than_its_warmup_only_warms_up():
    schedule = WarmupCosine(warmup_epochs=4, warmup_factor=0.0)
    assert [schedule.factor(epoch, 2) for epoch in (0, 1, 2)] == [0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("schedule", "max_epochs", "told"),
    [
        (WarmupCosine(4, 0.0), 2, r"of 4 epochs is longer than the training of 2: .* 0\.5 of its peak"),
        (Constant(warmup_epochs=0.5), 0.25, "the warm-up of 0.5 epochs is longer than the training of 0.25"),
        (MultiStep([1], warmup_epochs=5), 3, "the warm-up of 5 epochs is longer than the training of 3"),
        (MultiStep(), 30, "the first milestone, 30 epochs, is not before the end of the training of 30"),
        (WarmupCosine(1), 1, None),
        (Constant(5), math.inf, None),
        (MultiStep([2, 90]), 3, None),
        (MultiStep([]), 3, None),
        (TorchSchedule(None), 3, None),
    ],
)
def test_what_lies_after_the_end_of_the_training_is_told(schedule, max_epochs, told):
    sentence = schedule.unreached(max_epochs)
    assert re.search(told, sentence) if told else sentence is None


@pytest.mark.parametrize("fast_dev_run", [False, True])
def test_a_trial_of_a_few_batches_does_not_tell_of_its_warmup(fast_dev_run, recwarn):
    model = classifier(schedule=WarmupCosine(8))
    trainer(max_epochs=1, fast_dev_run=fast_dev_run).fit(model, loader(8))
    told = [str(warning.message) for warning in recwarn if "the warm-up of 8 epochs" in str(warning.message)]
    assert bool(told) is not fast_dev_run


def test_multi_step_is_the_authors_recipe():
    points = {0: 1, 29: 1, 29.99: 1, 30: 0.1, 59: 0.1, 60: 0.01, 89: 0.01, 90: 0.001, 100: 0.001}
    schedule = MultiStep()
    assert schedule.interval == "epoch"
    assert {epoch: schedule.factor(epoch, 100) for epoch in points} == pytest.approx(points, rel=1e-12)


def test_multi_step_sorts_its_milestones_and_warms_up():
    schedule = MultiStep([6, 2.5], gamma=0.5, warmup_epochs=1, warmup_factor=0.2, interval="step")
    points = {0: 0.2, 0.25: 0.4, 0.5: 0.6, 1: 1, 2.4: 1, 2.5: 0.5, 5.9: 0.5, 6: 0.25, 50: 0.25}
    assert {epoch: schedule.factor(epoch, math.inf) for epoch in points} == pytest.approx(points, rel=1e-12)


def test_constant_stays_after_its_warmup():
    assert [Constant().factor(epoch, math.inf) for epoch in (0, 0.1, 5, 1e6)] == [1, 1, 1, 1]
    warm = Constant(warmup_epochs=4, warmup_factor=0.5)
    assert [warm.factor(epoch, math.inf) for epoch in (0, 1, 2, 4, 9)] == [0.5, 0.625, 0.75, 1, 1]


@pytest.mark.parametrize(
    "options",
    [{"warmup_epochs": -1}, {"warmup_epochs": math.nan}, {"warmup_factor": -0.1}, {"warmup_factor": 1.1}],
)
@pytest.mark.parametrize("schedule", [WarmupCosine, MultiStep, Constant])
def test_a_warmup_out_of_range_is_refused(schedule, options):
    with pytest.raises(UsageError, match="allowed: 0 or more epochs, a factor from 0 to 1"):
        schedule(**options)


def test_by_step_the_rate_follows_fractions_of_an_epoch():
    rates, interval = built_rates(WarmupCosine(1, 0.1, 0.2), steps=4, epochs=5, count=20)
    assert interval == "step"
    assert rates == pytest.approx([cosine(i / 4, 5, 1, 0.1, 0.2) for i in range(20)], rel=1e-12)


def test_by_epoch_the_rate_follows_whole_epochs():
    rates, interval = built_rates(WarmupCosine(2, 0.1, 0.2, interval="epoch"), steps=4, epochs=5, count=5)
    assert interval == "epoch"
    assert rates == pytest.approx([cosine(i, 5, 2, 0.1, 0.2) for i in range(5)], rel=1e-12)


def test_milestones_fall_on_their_step_although_epochs_are_fractions():
    schedule = MultiStep([k / 10 for k in range(1, 10)], gamma=0.5, interval="step")
    rates, _ = built_rates(schedule, steps=10, epochs=1, count=10)
    assert rates == [0.5**i for i in range(10)]


def test_every_step_of_a_fit_is_made_with_the_rate_of_the_formula():
    rates, run = rates_of_a_run(WarmupCosine(1.5, 0.1, 0.05), loader(18), max_epochs=4)
    assert (rates.planned, run.global_step) == (5, 20)
    expected = [PEAK * cosine(i / 5, 4, 1.5, 0.1, 0.05) for i in range(20)]
    assert rates.steps == pytest.approx(expected, rel=1e-12)
    # training ends where the cosine does
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(PEAK * 0.05, rel=1e-12)


def test_by_epoch_every_step_of_an_epoch_is_made_with_the_same_rate():
    schedule = MultiStep([1, 3], gamma=0.1)
    rates, _ = rates_of_a_run(schedule, loader(8), max_epochs=4)
    expected = [PEAK * factor for factor in (1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01)]
    assert rates.steps == pytest.approx(expected, rel=1e-12)


def test_accumulated_batches_are_one_step_of_the_schedule():
    rates, run = rates_of_a_run(
        WarmupCosine(1, 0.1), loader(28), max_epochs=2, accumulate_grad_batches=2, limit_train_batches=5
    )
    assert (rates.planned, run.global_step) == (3, 6)
    assert rates.steps == pytest.approx([PEAK * cosine(i / 3, 2, 1, 0.1, 0) for i in range(6)], rel=1e-12)


def test_max_steps_shorten_the_cosine():
    rates, run = rates_of_a_run(WarmupCosine(0.5), loader(16), max_epochs=9, max_steps=6)
    assert run.global_step == 6
    expected = [PEAK * cosine(i / 4, 6 / 4, 0.5, 0.01, 0) for i in range(6)]
    assert rates.steps == pytest.approx(expected, rel=1e-12)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({}, {"count": 20}),
        ({}, {"count": 21}),
        ({}, {"count": 23, "drop_last": True}),
        ({}, {"count": 3}),
        ({"limit_train_batches": 3}, {"count": 20}),
        ({"limit_train_batches": 30}, {"count": 20}),
        ({"limit_train_batches": 1}, {"count": 20}),
        ({"limit_train_batches": 1.0}, {"count": 20}),
        ({"limit_train_batches": 0.5}, {"count": 20}),
        ({"limit_train_batches": 0.7}, {"count": 40}),
        ({"accumulate_grad_batches": 2}, {"count": 20}),
        ({"accumulate_grad_batches": 8}, {"count": 20}),
        ({"accumulate_grad_batches": 3, "limit_train_batches": 0.8}, {"count": 38}),
        ({"accumulate_grad_batches": 2, "limit_train_batches": 3}, {"count": 22, "drop_last": True}),
        ({"overfit_batches": 2}, {"count": 20}),
        ({"fast_dev_run": 2}, {"count": 20}),
    ],
)
def test_steps_per_epoch_are_the_steps_lightning_makes(options, data):
    rates, run = rates_of_a_run(Constant(), loader(**data), **options)
    assert rates.planned == run.global_step == len(rates.steps) > 0


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_steps_per_epoch_are_those_of_one_of_many_processes(num_processes, drop_last):
    for count in range(8 * 4, 200):
        data = DataLoader(range(count), batch_size=4, drop_last=drop_last)
        sampler = DistributedSampler(range(count), num_processes, rank=num_processes - 1)
        share = DataLoader(range(count), batch_size=4, drop_last=drop_last, sampler=sampler)
        process = SimpleNamespace(
            fit_loop=SimpleNamespace(_data_source=SimpleNamespace(dataloader=lambda data=data: data)),
            world_size=num_processes,
            limit_train_batches=1.0,
            accumulate_grad_batches=1,
        )
        assert steps_per_epoch(process) == len(share), count


def test_steps_per_epoch_are_those_of_a_loader_that_deals_out_the_images_itself():
    for count in (64, 100, 101):
        images = ArrayDataset(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64))
        share = BatchLoader(images, TrainOrder(images, 4, 0, num_replicas=8, rank=3), num_workers=0)
        process = SimpleNamespace(
            fit_loop=SimpleNamespace(_data_source=SimpleNamespace(dataloader=lambda share=share: share)),
            world_size=8,
            limit_train_batches=1.0,
            accumulate_grad_batches=1,
        )
        assert steps_per_epoch(process) == len(list(share)) == count // 8 // 4


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"max_epochs": 3}, 3),
        ({"max_epochs": 3, "max_steps": 20}, 2),
        ({"max_epochs": 3, "max_steps": 300}, 3),
        ({"max_epochs": None, "max_steps": 5}, 0.5),
        ({"max_epochs": -1, "max_steps": 25}, 2.5),
        ({"max_epochs": -1}, math.inf),
    ],
)
def test_the_end_is_whichever_limit_comes_first(options, epochs):
    assert max_epochs(trainer(**options), steps=10) == epochs


def test_a_cosine_without_an_end_is_refused():
    with pytest.raises(UsageError, match=r"set --trainer\.max_epochs or --trainer\.max_steps"):
        trainer(max_epochs=-1).fit(classifier(schedule=WarmupCosine()), loader(4))


def test_other_schedules_need_no_end():
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    rates = Rates()
    schedule = MultiStep([0.5], interval="step")
    trainer(rates, Stop(), max_epochs=-1).fit(classifier(schedule=schedule), loader(16))
    assert rates.steps == pytest.approx([PEAK, PEAK, PEAK * 0.1, PEAK * 0.1], rel=1e-12)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_of_torch_counts_what_it_is_told_to(interval):
    schedule = TorchSchedule(lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5), interval=interval)
    rates, _ = rates_of_a_run(schedule, loader(12), max_epochs=3)
    counts = range(9) if interval == "step" else (i // 3 for i in range(9))
    assert rates.steps == pytest.approx([PEAK * 0.5 ** (count // 2) for count in counts], rel=1e-12)


class Losses(Callback):
    """Replaces the measured validation loss by a made-up one."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log(self.name, self.values[trainer.current_epoch])


def test_reduce_on_plateau_watches_its_metric():
    losses = Losses("val/made_up", [3.0, 2.0, 2.0, 2.5, 1.0])
    schedule = TorchSchedule(
        lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.1, patience=0), monitor="val/made_up"
    )
    rates = Rates()
    run = trainer(rates, losses, max_epochs=5, num_sanity_val_steps=0)
    run.fit(classifier(schedule=schedule), loader(4), loader(4))
    assert rates.steps == pytest.approx([PEAK, PEAK, PEAK, PEAK * 0.1, PEAK * 0.01], rel=1e-12)


def test_reduce_on_plateau_watches_the_validation_loss_by_default():
    schedule = TorchSchedule(lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.1))
    _, run = rates_of_a_run(schedule, val=loader(4), max_epochs=2)
    assert run.lr_scheduler_configs[0].monitor == "val/loss"
    best = run.lr_scheduler_configs[0].scheduler.best
    assert math.isfinite(best)
    assert best <= run.callback_metrics["val/loss"].item()


@pytest.mark.parametrize("schedule", [WarmupCosine(), MultiStep([1]), Constant(), None])
def test_no_schedule_asks_the_trainer_for_its_number_of_steps(schedule, monkeypatch):
    def refuse(self):
        raise AssertionError

    monkeypatch.setattr(Trainer, "estimated_stepping_batches", property(refuse))
    with pytest.raises(AssertionError):
        _ = trainer().estimated_stepping_batches
    rates, _ = rates_of_a_run(schedule, max_epochs=2)
    assert len(rates.steps) == 10
