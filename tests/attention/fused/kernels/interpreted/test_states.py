"""When the kernels run, and what they refuse or leave alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cbam_lightning.attention import CBAM
from cbam_lightning.errors import UsageError
from tests.attention.checks import randomised
from tests.attention.fused.comparing import ARRANGEMENTS, as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, feature_maps
from tests.attention.fused.kernels.interpreted.comparing import (
    assert_equals_reference,
    exact_results,
    results,
    runs_kernels,
)

pytestmark = pytest.mark.usefixtures("uncompiled")
EVERY = [*ARRANGEMENTS, "se"]
SHAPE = (2, 8, 3, 2)


@pytest.mark.parametrize("arrangement", EVERY)
def test_evaluation_without_gradients_runs_the_forward_kernels_alone(arrangement, launches):
    module = create(arrangement).float().eval()
    (x,) = feature_maps(module, SHAPE)
    with torch.no_grad():
        found = as_fused(module)(x)
        torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(as_fused(module)(x), found)
    assert len(launches) == 2 * {"channel": 5, "se": 5, "spatial": 4}.get(arrangement, 8)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_the_option_decides(implementation, launches):
    module = create("channel-spatial").float()
    module.implementation = implementation
    module(*feature_maps(module, SHAPE))
    assert bool(launches) == (implementation == "auto")


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_repeats_agree_bit_for_bit(layout):
    end = create_end("channel-spatial", 8)
    maps = feature_maps(end, (3, 8, 5, 4), layout=layout)
    (_, first), (_, second) = (results(as_fused(end), *maps) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_nan_passes_through(layout):
    end = create_end("channel-spatial", 8).eval()
    u, shortcut = (x.detach() for x in feature_maps(end, SHAPE, layout=layout))
    u[0, 3, 1, 1] = shortcut[1, 2, 0, 0] = float("nan")
    found, want = as_fused(end)(u, shortcut), end(u, shortcut)
    assert torch.equal(found.isnan(), want.isnan())
    assert found[0].isnan().any()
    assert found[1].isnan().sum() == 1


def test_each_tensor_may_lie_in_a_layout_of_its_own():
    end = create_end("channel-spatial", 8)
    (u, _), (_, shortcut) = (
        feature_maps(end, SHAPE, layout=layout) for layout in ("channels last", "contiguous")
    )
    for maps in ((u, shortcut), (shortcut, u)):
        assert_equals_reference(end, *maps)
    gradients = torch.autograd.grad(as_fused(end)(u, shortcut).sum(), [u, shortcut])  # an expanded number
    for gradient, want in zip(
        gradients, torch.autograd.grad(end(u, shortcut).sum(), [u, shortcut]), strict=True
    ):
        torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "frozen", [["u"], ["shortcut"], ["u", "shortcut"], ["bn."], ["mlp"], ["spatial"], ["attention", "bn."]]
)
def test_what_is_frozen_gets_no_gradient(frozen):
    end = create_end("channel-spatial", 8, kernel_size=1)
    for name, parameter in end.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen if part not in ("u", "shortcut")))
    u, shortcut = feature_maps(end, SHAPE)
    u.requires_grad_("u" not in frozen)
    shortcut.requires_grad_("shortcut" not in frozen)
    output, found = results(as_fused(end), u, shortcut)
    assert runs_kernels(output)
    _, want = results(end, u, shortcut)
    for name, value in want.items():
        assert (found[name] is None) == (value is None), name
        if value is not None and value.numel():
            assert (found[name] - value).abs().max() < 1e-4 * max(1, value.abs().max()), name


def test_a_second_derivative_is_refused():
    end = create_end("channel-spatial", 8, kernel_size=1)
    u, shortcut = feature_maps(end, SHAPE)
    output = as_fused(end)(u, shortcut)
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(output.sum(), u, create_graph=True)
    with pytest.raises(UsageError, match="one gradient at a time"):
        torch.autograd.grad(output, u, torch.ones(2, *output.shape), is_grads_batched=True)


@pytest.mark.parametrize("tracks", [True, False])
def test_one_value_to_a_channel_is_refused_as_ever(tracks, launches):
    bn = nn.BatchNorm2d(8, track_running_stats=tracks)
    end = as_fused(create_end("channel-spatial", 8, bn, kernel_size=1))
    maps = feature_maps(end, (1, 8, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        end(*maps)
    assert not launches
    end.attention.eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        end(*maps)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Derived(CBAM):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(part):
    return lambda module: module.get_submodule(part).register_forward_hook(lambda *_: None)


def parametrized(part):
    return lambda module: parametrize.register_parametrization(
        module.get_submodule(part), "weight", Doubled()
    )


def derived(module):
    module.__class__ = Derived


def other_order(module):
    module.channel.mlp.insert(2, nn.Dropout(0.0))


CHANGES = {
    "hook on the convolution": hooked("spatial.conv"),
    "hook on its BatchNorm": hooked("spatial.bn"),
    "hook on what follows": hooked("spatial.relu"),
    "hook on the spatial gate": hooked("spatial"),
    "hook on the MLP": hooked("channel.mlp"),
    "hook on a layer of it": hooked("channel.mlp.2"),
    "hook on the channel gate": hooked("channel"),
    "parametrized convolution": parametrized("spatial.conv"),
    "parametrized layer": parametrized("channel.mlp.0"),
    "parametrized BatchNorm": parametrized("spatial.bn"),
    "BatchNorm without weight": lambda m: setattr(m.spatial, "bn", nn.BatchNorm2d(1, affine=False)),
    "GroupNorm": lambda m: setattr(m.spatial, "bn", nn.GroupNorm(1, 1)),
    "dropout in the MLP": other_order,
    "subclass": derived,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed_runs_without_kernels(change, launches):
    module = create("channel-spatial").float()
    CHANGES[change](module)
    assert_plain(module, SHAPE, launches)


OPTIONS = {
    "ReLU": {"spatial_relu": True},
    "1x1 convolution": {"spatial_pool": "conv1x1"},
    "lp": {"pools": ("avg", "lp")},
    "lse": {"pools": ("avg", "max", "lse")},
    "maximum alone": {"pools": ("max",)},
    "3 dimensions": {"dims": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_the_kernels_do_not_know_runs_without_them(name, launches):
    shape = (*SHAPE, 2) if name == "3 dimensions" else SHAPE
    assert_plain(create("channel-spatial", **OPTIONS[name]).float(), shape, launches)


def test_float64_runs_without_kernels(launches):
    assert_plain(create("channel-spatial").double(), SHAPE, launches, torch.float64)


def assert_plain(module, shape, launches, dtype=torch.float32):
    maps = feature_maps(module, shape, dtype=dtype)
    _, found = results(as_fused(module), *maps)
    assert not launches
    want, _ = exact_results(module, *maps)
    for name, value in want.items():
        torch.testing.assert_close(found[name].to(value.dtype), value, rtol=1e-4, atol=1e-4, msg=name)


ENDS = {
    "hook on bn": hooked("bn"),
    "hook on the ReLU": hooked("relu"),
    "hook on the attention": hooked("attention"),
    "GroupNorm": lambda m: setattr(m, "bn", nn.GroupNorm(2, 8)),
    "ReLU6": lambda m: setattr(m, "relu", nn.ReLU6()),
}


@pytest.mark.parametrize("change", ENDS)
def test_the_end_of_a_changed_block_runs_in_parts(change, launches):
    end = create_end("channel-spatial", 8)
    ENDS[change](end)
    maps = feature_maps(end, SHAPE)
    output, found = results(as_fused(end), *maps)
    assert not runs_kernels(output)
    want, _ = exact_results(end, *maps)
    for name, value in want.items():
        torch.testing.assert_close(found[name].to(value.dtype), value, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kernel_size", [1, 7])
def test_a_weight_in_channels_last_memory_is_not_copied(kernel_size, launches):
    module = randomised(CBAM(16, 4, kernel_size=kernel_size, implementation="fused"))
    expected = copy.deepcopy(module).double()
    expected.implementation = "reference"
    module = module.to(memory_format=torch.channels_last)
    weight, x = module.spatial.conv.weight, torch.randn(3, 16, 6, 5)
    output, gradient = module(x), torch.randn(3, 16, 6, 5)
    assert "weight_gradient_kernel" not in launches
    assert any(saved is weight for saved in output.grad_fn.saved_tensors)
    output.backward(gradient)
    expected(x.double()).backward(gradient.double())
    found, wanted = weight.grad, expected.spatial.conv.weight.grad
    assert "weight_gradient_kernel" in launches
    assert found.stride() == weight.stride()
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
