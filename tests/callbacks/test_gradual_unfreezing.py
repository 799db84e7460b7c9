"""Unfreezing a stage at a time, over real training steps."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch.optim import SGD, AdamW

from cbam_lightning.callbacks import EMA, GradualUnfreezing
from cbam_lightning.errors import UsageError
from cbam_lightning.optim import WarmupCosine
from tests.tasks.small import batch, classifier, differing, loader, snapshot, trainer

# From the images to the classifier; the small network has one block in each.
PARTS = (("conv1", "bn1", "layer1"), ("layer2",), ("layer3",), ("fc",))
MOMENTUM = partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.1)


class States(Callback):
    """Notes the weights at the start and after every epoch, and what is trainable during it."""

    def on_train_start(self, trainer, pl_module):
        self.states = [snapshot(pl_module.network)]
        self.trainable, self.training, self.graph = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        named = pl_module.network.named_parameters()
        self.trainable.append({name for name, parameter in named if parameter.requires_grad})
        self.training.append({name for name, m in pl_module.network.named_modules() if m.training})
        self.graph.append({name for name, p in pl_module.network.named_parameters() if p.grad is not None})

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(snapshot(pl_module.network))


def part_of(key):
    return next(index for index, part in enumerate(PARTS) if key.split(".")[0] in part)


def fit(*callbacks, train=None, val=None, **options):
    settings = {key: options.pop(key) for key in list(options) if key in ("optimizer", "schedule", "freeze")}
    settings |= {key: options.pop(key) for key in list(options) if key in ("decay_norm_and_bias", "compile")}
    model = classifier(**{"optimizer": MOMENTUM} | settings)
    run = trainer(*callbacks, **{"max_epochs": 5} | options)
    run.fit(model, train or loader(12), val)
    return model, run


@pytest.mark.parametrize("options", [{"epochs_per_stage": -1}, {"lr_decay": 0.5}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="allowed: 0 or more epochs, a decay of 1 or more"):
        GradualUnfreezing(**options)


@pytest.mark.parametrize("optimizer", [MOMENTUM, partial(AdamW, lr=0.01, weight_decay=0.1)])
@pytest.mark.parametrize("others", [(), (EMA,)], ids=["alone", "with EMA"])
def test_a_frozen_stage_keeps_every_bit_and_the_others_change(optimizer, others):
    noted = States()
    fit(GradualUnfreezing(), noted, *(cls() for cls in others), val=loader(8, start=100), optimizer=optimizer)
    for epoch in range(5):
        before, after = noted.states[epoch : epoch + 2]
        # two steps suffice for every value to move, running statistics and their counts included
        expected = {key for key in before if part_of(key) >= 3 - epoch}
        assert differing(before, after) == expected, epoch
        trained = {key for key in before if part_of(key) >= 3 - epoch} & noted.trainable[-1]
        assert noted.trainable[3 * epoch] == noted.graph[3 * epoch] == trained
        assert not {name for name in noted.training[3 * epoch] if "bn" in name and part_of(name) < 3 - epoch}


def test_stages_wait_as_many_epochs_as_asked_for():
    noted = States()
    fit(GradualUnfreezing(epochs_per_stage=2), noted)
    lowest = [min(part_of(name) for name in names) for names in noted.trainable[::3]]
    assert lowest == [3, 3, 2, 2, 1]
    noted = States()
    fit(GradualUnfreezing(epochs_per_stage=0), noted, max_epochs=1)
    assert min(part_of(name) for name in noted.trainable[0]) == 0


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_each_stage_has_its_learning_rate_and_keeps_its_weight_decay(decay_norm_and_bias):
    model, run = fit(GradualUnfreezing(lr_decay=2), max_epochs=1, decay_norm_and_bias=decay_norm_and_bias)
    names = {id(parameter): name for name, parameter in model.network.named_parameters()}
    groups = run.optimizers[0].param_groups
    found = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    for name, group in found.items():
        spared = not decay_norm_and_bias and model.network.get_parameter(name).ndim <= 1
        assert group["lr"] == 0.05 / 2 ** (3 - part_of(name)), name
        assert group["weight_decay"] == (0 if spared else 0.1), name
        assert group["momentum"] == 0.9
    assert len({group["name"] for group in groups}) == len(groups) == (4 if decay_norm_and_bias else 8)


def test_every_rate_follows_the_schedule():
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(GradualUnfreezing(), Rates(), schedule=WarmupCosine(warmup_epochs=1), max_epochs=2)
    factors = [row[0] / 0.05 for row in rates]
    assert len(set(factors)) == 6
    for factor, row in zip(factors, rates, strict=True):
        assert row == pytest.approx([factor * 0.05 / 2.6**depth for depth in range(4)])


def test_one_rate_and_no_freezing_is_a_training_as_any_other():
    plain, _ = fit(max_epochs=2)
    model, _ = fit(GradualUnfreezing(epochs_per_stage=0, lr_decay=1), max_epochs=2)
    assert not differing(snapshot(plain), snapshot(model))


def test_what_the_user_froze_stays_frozen():
    noted = States()
    model, run = fit(GradualUnfreezing(), noted, freeze="layer[13]*")
    changed = {key.split(".")[0] for key in differing(noted.states[0], noted.states[-1])}
    assert changed == {"conv1", "bn1", "layer2", "fc"}
    assert [group["name"] for group in run.optimizers[0].param_groups] == ["head", "stage2", "stage1"]
    assert not model.network.layer3[0].bn1.training


def test_after_the_training_all_is_trainable_again_for_the_next():
    model, _ = fit(GradualUnfreezing(), max_epochs=1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    noted = States()
    trainer(noted).fit(model, loader(8))
    assert differing(noted.states[0], noted.states[1]) == noted.states[0].keys()


def test_a_training_goes_on_where_it_was(tmp_path):
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    model, _ = fit(GradualUnfreezing(), saving)
    again, noted = classifier(optimizer=MOMENTUM), States()
    run = trainer(GradualUnfreezing(), noted, max_epochs=5)
    run.fit(again, loader(12), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert not differing(snapshot(again), snapshot(model))
    assert [min(part_of(name) for name in names) for names in noted.trainable[::3]] == [1, 0, 0]


def test_a_module_without_a_network_is_refused():
    class Other(LightningModule):
        pass

    with pytest.raises(UsageError, match="GradualUnfreezing trains a Classifier; Other has no network"):
        GradualUnfreezing().freeze_before_training(Other())


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True, "static_graph": True}])
def test_processes_that_wait_for_every_gradient_are_refused(options):
    run = trainer(strategy=DDPStrategy(**options))
    with pytest.raises(UsageError, match="ddp_find_unused_parameters_true"):
        GradualUnfreezing().setup(run, classifier(), "fit")
    GradualUnfreezing(epochs_per_stage=0).setup(run, classifier(), "fit")
    run = trainer(strategy="ddp_find_unused_parameters_true")
    GradualUnfreezing().setup(run, classifier(), "fit")


def test_a_network_that_does_not_see_below_a_frozen_stage_needs_no_gradient_there():
    model = classifier(optimizer=MOMENTUM)
    callback = GradualUnfreezing()
    callback.setup(trainer(), model, "fit")
    callback.finetune_function(model, epoch=1)
    features = model.network.layer2(model.network.layer1(model.network.forward_stem(batch(4).images)))
    assert not features.requires_grad
    assert torch.is_grad_enabled()
    assert model.network.layer3(features).requires_grad
