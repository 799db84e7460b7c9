"""Which parameters are decayed, which are trained at all, and the learning rate for the batch size."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.optim.parameter_groups import freeze, parameter_groups
from tests.tasks.small import batch, batches, classifier, differing, loader, snapshot, trainer


def network(**options):
    torch.manual_seed(0)
    return create_model("resnet20", attention="cbam", num_classes=10, in_channels=1, **options)


def names_of(module, groups):
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [sorted(names[id(parameter)] for parameter in group["params"]) for group in groups]


def test_with_decay_for_all_there_is_one_group_of_everything():
    module = network()
    groups = parameter_groups(module, decay_norm_and_bias=True)
    assert names_of(module, groups) == [sorted(name for name, _ in module.named_parameters())]
    assert "weight_decay" not in groups[0]


def test_without_decay_norms_and_biases_are_a_group_of_their_own():
    module = network()
    decayed, spared = parameter_groups(module, decay_norm_and_bias=False)
    assert "weight_decay" not in decayed
    assert spared["weight_decay"] == 0
    weights = {f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    everything = {name for name, _ in module.named_parameters()}
    assert names_of(module, [decayed, spared]) == [sorted(weights), sorted(everything - weights)]
    assert {
        "bn1.weight",
        "bn1.bias",
        "fc.bias",
        "layer1.0.attention.channel.mlp.0.bias",
    } <= everything - weights


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_frozen_parameters_are_in_no_group(decay_norm_and_bias):
    module = network()
    module.conv1.weight.requires_grad_(False)
    module.bn1.bias.requires_grad_(False)
    groups = names_of(module, parameter_groups(module, decay_norm_and_bias))
    names = [name for group in groups for name in group]
    assert set(names) == {name for name, _ in module.named_parameters()} - {"conv1.weight", "bn1.bias"}
    assert len(names) == len(set(names))


def test_a_group_without_parameters_is_left_out():
    module = nn.BatchNorm1d(3)
    assert [group["weight_decay"] for group in parameter_groups(module, decay_norm_and_bias=False)] == [0]


def test_nothing_to_train_is_refused():
    module = network().requires_grad_(False)
    with pytest.raises(UsageError, match=r"all parameters are frozen.*--model\.freeze"):
        parameter_groups(module, decay_norm_and_bias=True)


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_a_step_shrinks_exactly_what_is_decayed(decay_norm_and_bias):
    """With gradients of 0 an SGD step is p - lr * decay * p."""
    module = network()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    SGD(parameter_groups(module, decay_norm_and_bias), lr=0.5, weight_decay=0.25).step()
    for name, parameter in module.named_parameters():
        spared = not decay_norm_and_bias and (name.endswith("bias") or "bn" in name or "downsample.1" in name)
        expected = before[name] if spared else before[name] * (1 - 0.5 * 0.25)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0, msg=name)


def test_the_classifier_task_spares_norms_and_biases_if_told_to():
    def optimizer(parameters):
        return SGD(parameters, lr=0.5, weight_decay=0.25)

    model = classifier(optimizer=optimizer, decay_norm_and_bias=False)
    run = trainer()
    run.fit(model, loader(4))
    decays = {
        id(p): group["weight_decay"] for group in run.optimizers[0].param_groups for p in group["params"]
    }
    assert {name: decays[id(p)] for name, p in model.network.named_parameters()} == {
        name: 0.25 if p.ndim > 1 else 0 for name, p in model.network.named_parameters()
    }


def test_freezing_the_backbone_leaves_the_classifier():
    module = network()
    frozen = freeze(module, "backbone")
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    assert module.fc not in frozen
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 19
    assert all(norm in frozen for norm in norms)


def test_a_classifier_inside_another_module_is_spared_with_it():
    module = network()
    module.head = nn.Sequential(nn.Linear(64, 64), module.fc)
    del module.fc
    module.get_classifier = lambda: module.head[1]
    frozen = freeze(module, "backbone")
    assert module.head not in frozen
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    assert names == ["head.1.weight", "head.1.bias"]


@pytest.mark.parametrize(
    ("pattern", "prefixes"),
    [
        ("layer1*", ("layer1.",)),
        ("layer[12]*", ("layer1.", "layer2.")),
        ("layer1", ("layer1.",)),
        ("bn1", ("bn1.",)),
        ("*.attention", tuple(f"layer{i}.{j}.attention." for i in (1, 2, 3) for j in (0, 1, 2))),
        ("*", ("",)),
    ],
)
def test_freezing_by_pattern_takes_just_what_fits(pattern, prefixes):
    module = network()
    freeze(module, pattern)
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in module.named_parameters() if name.startswith(prefixes)}
    assert frozen


@pytest.mark.parametrize("pattern", ["layer9*", "", "Backbone", "layer1.0.nothing"])
def test_a_pattern_that_fits_nothing_is_refused_and_names_are_given(pattern):
    module = network()
    with pytest.raises(UsageError, match=r"matches no module.*'backbone'.*layer1, layer2, layer3"):
        freeze(module, pattern)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [("backbone", ("conv1", "bn1", "layer")), ("layer1*", ("layer1",)), ("bn1", ("bn1",))],
)
def test_a_fit_changes_everything_but_what_is_frozen(pattern, prefix):
    model = classifier(freeze=pattern)
    # parameters of this value have no gradient: the spatial gate of CBAM starts constant
    for name, parameter in model.named_parameters():
        if name.endswith("spatial.bn.weight"):
            nn.init.ones_(parameter)
    before = snapshot(model.network)
    run = trainer(max_epochs=2, val_check_interval=2)
    run.fit(model, loader(16), loader(4, start=100))
    assert run.global_step == 8
    frozen = {key for key in before if key.startswith(prefix)}
    assert any("running_var" in key for key in frozen)
    assert differing(before, snapshot(model.network)) == set(before) - frozen


def test_a_network_without_linear_layer_can_be_frozen_by_pattern():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    assert freeze(network, "0") == [network[0]]
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    freeze(network, "backbone")
    with pytest.raises(UsageError, match="all parameters are frozen"):
        parameter_groups(network, decay_norm_and_bias=True)


@pytest.mark.parametrize(("accumulate", "expected"), [(1, 0.1 * 4 / 16), (3, 0.1 * 12 / 16)])
def test_the_learning_rate_follows_the_global_batch(accumulate, expected):
    module = classifier(lr_batch_size=16, optimizer=lambda params: SGD(params, lr=0.1))
    trainer(accumulate_grad_batches=accumulate).fit(module, loader(12, batch_size=4))
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected)


def test_a_batch_size_that_nobody_knows_is_an_error():
    module = classifier(lr_batch_size=16)
    with pytest.raises(UsageError, match="lr_batch_size needs data with a batch_size"):
        trainer().fit(module, batches(batch(4)))


def test_a_bad_lr_batch_size_is_refused():
    with pytest.raises(UsageError, match="lr_batch_size is 0; allowed: 1 or more, or null"):
        classifier(lr_batch_size=0)
