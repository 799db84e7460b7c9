"""Whoever changes what a gate computes is obeyed, whatever the implementation and the size of the map."""

import copy
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

from cbam_lightning.attention import CBAM, ChannelAttention, SpatialAttention, SqueezeExcite, implementation
from cbam_lightning.explain.gates import record_gates
from cbam_lightning.models.resnet import BasicBlock
from tests.attention.checks import images, randomised
from tests.attention.fused.comparing import as_fused, create, function_of, is_fused

pytestmark = pytest.mark.usefixtures("uncompiled")
METHODS = ("forward", "gate_map", "compute_gate", "sigmoid")
HALVES = {"channel": ChannelAttention, "spatial": SpatialAttention}


@pytest.fixture
def small_maps_count_as_large(monkeypatch):
    monkeypatch.setattr(implementation, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(implementation, "has_compiler", lambda device_type: True)


def changed_method(kind, method):
    original = getattr(kind, method)
    # Neither a shift nor a factor, which a BatchNorm would remove.
    return lambda self, *given: (2 * original(self, *given)).sin()


def derive(module, method):
    kind = type(module)
    module.__class__ = type("Derived", (kind,), {method: changed_method(kind, method)})


def replace_on_the_instance(module, method):
    setattr(module, method, MethodType(changed_method(type(module), method), module))


class SineLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).sin()


class SineConvolution(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).sin()


class SineSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x).sin()


def replaced(name, make):
    def change(module):
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, randomised(make(module.get_submodule(name))))

    return change


def on_instance(name, method="forward"):
    return lambda module: replace_on_the_instance(module.get_submodule(name), method)


def with_option(name, option, value):
    return lambda module: setattr(module.get_submodule(name), option, value)


def hooked(name):
    return lambda module: module.get_submodule(name).register_forward_hook(lambda *given: given[-1].sin())


def kernel(**options):
    options = {"kernel_size": 3, "padding": 1, "bias": False} | options
    return lambda _: nn.Conv2d(2, 1, **options)


# Names of parts are those of CBAM.
CHANGES = {
    "channel derived from": lambda module: derive(module.channel, "compute_gate"),
    "spatial derived from": lambda module: derive(module.spatial, "compute_gate"),
    "both derived from": lambda module: [derive(gate, "sigmoid") for gate in module.gates],
    "a method of the instance, channel": on_instance("channel", "compute_gate"),
    "a method of the instance, spatial": on_instance("spatial", "gate_map"),
    "an MLP of its own": replaced("channel.mlp", lambda mlp: SineSequential(*mlp)),
    "a longer MLP": replaced("channel.mlp", lambda mlp: nn.Sequential(*mlp, nn.Tanh())),
    "an MLP that is no Sequential": replaced("channel.mlp", lambda mlp: nn.Linear(8, 8)),
    "a linear layer of its own": replaced("channel.mlp.0", lambda _: SineLinear(8, 4)),
    "a linear layer without bias": replaced("channel.mlp.2", lambda _: nn.Linear(4, 8, bias=False)),
    "another activation": replaced("channel.mlp.1", lambda _: nn.GELU()),
    "a forward of the MLP": on_instance("channel.mlp"),
    "a forward of a linear layer": on_instance("channel.mlp.0"),
    "a forward of the activation": on_instance("channel.mlp.1"),
    "a hook of a linear layer": hooked("channel.mlp.2"),
    "a hook of the convolution": hooked("spatial.conv"),
    "a hook of the BatchNorm": hooked("spatial.bn"),
    "a hook of the gate": hooked("channel"),
    "spectral norm of a linear layer": lambda m: parametrizations.spectral_norm(m.channel.mlp[0]),
    "a parametrization of the convolution": lambda m: register_parametrization(
        m.spatial.conv, "weight", nn.Tanh()
    ),
    "pruning of a linear layer": lambda m: prune.l1_unstructured(m.channel.mlp[0], "weight", 0.5),
    "pruning of the convolution": lambda m: prune.l1_unstructured(m.spatial.conv, "weight", 0.5),
    "a convolution of its own": replaced(
        "spatial.conv", lambda _: SineConvolution(2, 1, 3, padding=1, bias=False)
    ),
    "a convolution with a bias": replaced("spatial.conv", kernel(bias=True)),
    "a convolution that mirrors": replaced("spatial.conv", kernel(padding_mode="reflect")),
    "a dilated convolution": replaced("spatial.conv", kernel(dilation=2, padding=2)),
    "a convolution in its own words": replaced("spatial.conv", kernel(padding="same")),
    "a forward of the convolution": on_instance("spatial.conv"),
    "no BatchNorm": replaced("spatial.bn", lambda _: nn.Identity()),
    "another normalisation": replaced("spatial.bn", lambda _: nn.InstanceNorm2d(1, affine=True)),
    "a forward of the BatchNorm": on_instance("spatial.bn"),
    "another activation of the spatial gate": replaced("spatial.relu", lambda _: nn.Tanh()),
    "a gate of another range": with_option("spatial", "gate", "identity"),
    "an SE as channel gate": replaced("channel", lambda _: SqueezeExcite(8, 2, implementation="reference")),
    "the channel gate twice": replaced("spatial", lambda _: ChannelAttention(8, 2)),
    "the spatial gate twice": replaced("channel", lambda _: SpatialAttention(8, 3)),
    "an arrangement chosen later": with_option("", "arrangement", "channel"),
    "another arrangement chosen later": with_option("", "arrangement", "spatial"),
}


def assert_obeyed(changed, x, plain):
    """Compare with the plain operations, in training and evaluation, and see that the change is one."""
    wanted = copy.deepcopy(changed)
    for part in wanted.modules():
        if hasattr(part, "implementation"):
            part.implementation = "reference"
    for training in (True, False):
        expected = wanted.train(training)(x)
        torch.testing.assert_close(changed.train(training)(x), expected, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(plain.train(training)(x), expected, rtol=1e-3)


@pytest.mark.parametrize("implementation", ["fused", "auto"])
@pytest.mark.parametrize("reason", CHANGES)
def test_changed_parts_of_cbam_are_obeyed(reason, implementation, small_maps_count_as_large):
    plain = create("channel-spatial").double()
    changed = copy.deepcopy(plain)
    changed.implementation = implementation
    with torch.no_grad():  # pruning leaves a weight that cannot be copied otherwise
        CHANGES[reason](changed)
    changed.double()
    assert_obeyed(changed, images(2, 8, 5, 4).requires_grad_(), plain)


def test_the_unchanged_module_runs_fused(small_maps_count_as_large):
    for arrangement in ("channel-spatial", "se"):
        module = create(arrangement).double()
        module.implementation = "auto"
        assert is_fused(module.train()(images(2, 8, 5, 4).requires_grad_()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", [derive, replace_on_the_instance])
@pytest.mark.parametrize("implementation", ["fused", "auto"])
def test_changed_methods_of_se_are_obeyed(method, way, implementation, small_maps_count_as_large):
    plain = create("se").double()
    changed = copy.deepcopy(plain)
    way(changed, method)
    changed.implementation = implementation
    assert_obeyed(changed, images(2, 8, 5, 4).requires_grad_(), plain)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_was_changed_is_obeyed(half, method, monkeypatch):
    plain, kind, x = create("channel-spatial").double(), HALVES[half], images(2, 8, 5, 4).requires_grad_()
    outputs = [as_fused(plain)(x)]
    monkeypatch.setattr(kind, method, changed_method(kind, method))
    outputs += [plain(x), as_fused(plain)(x)]
    assert is_fused(outputs[0])
    assert torch.equal(outputs[1], outputs[2])
    assert not torch.allclose(outputs[0], outputs[2], rtol=1e-3)


def test_a_subclass_gives_in_training_what_it_gives_in_evaluation(small_maps_count_as_large):
    class Constant(ChannelAttention):
        def compute_gate(self, x):
            return torch.full((len(x), x.shape[1], 1, 1), 0.25)

    module = CBAM(8, arrangement="channel")
    module.channel = Constant(8)
    x = images(2, 8, 5, 4, dtype=torch.float32).requires_grad_()
    for training in (True, False):
        assert torch.equal(module.train(training)(x), 0.25 * x)
    with record_gates(module) as recorded:
        module(x)
    assert torch.equal(recorded[0].channel, torch.full((2, 8), 0.25))


@pytest.mark.parametrize("side", [16, 512], ids=["below", "from 2^20 elements"])
@pytest.mark.parametrize("method", METHODS)
def test_size_and_mode_do_not_decide_whether_a_subclass_is_obeyed(method, side, monkeypatch):
    monkeypatch.setattr(implementation, "has_compiler", lambda device_type: True)
    override = {method: lambda self, x: torch.full_like(x, 0.25)}
    module, x = type("Constant", (SqueezeExcite,), override)(4), torch.ones(1, 4, side, side)
    for training in (True, False):
        assert torch.unique(module.train(training)(x)).tolist() == [0.25]
    assert is_fused(SqueezeExcite(4)(x.requires_grad_())) == (side == 512)


def test_hooks_of_all_modules_see_every_layer():
    module, x, seen = as_fused(create("channel-spatial")), images(2, 8, 5, 4).float().requires_grad_(), []
    handle = nn.modules.module.register_module_forward_hook(lambda *given: seen.append(given[0]))
    try:
        assert not is_fused(module(x))
    finally:
        handle.remove()
    assert set(module.modules()) == set(seen)
    assert is_fused(module(x))


def test_the_gates_dimensions_decide():
    module = as_fused(create("channel-spatial"))
    module.spatial.conv = nn.Conv1d(2, 1, 3, padding=1, bias=False)
    with pytest.raises(RuntimeError, match="conv1d"):
        module(images(2, 8, 5, 4).float())


@pytest.mark.parametrize("part", ["bn2", "relu", "attention", "attention.channel", "attention.spatial.conv"])
def test_a_changed_block_is_obeyed(part, small_maps_count_as_large):
    plain = BasicBlock(8, 8, 1)
    plain.attention = create("channel-spatial")
    plain = randomised(plain).double()
    x = images(2, 8, 5, 4).requires_grad_()
    changed = as_fused(plain)
    assert function_of(changed(x)) == "_ScaleAddReluBackward"
    replace_on_the_instance(changed.get_submodule(part), "forward")
    assert function_of(changed(x)) != "_ScaleAddReluBackward"
    assert_obeyed(changed, x, plain)
