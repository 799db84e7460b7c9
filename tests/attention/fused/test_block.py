"""The fused end of a residual block against relu(attention(bn(u)) + shortcut)."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from cbam_lightning.attention import CBAM
from cbam_lightning.models.resnet import BasicBlock, Bottleneck
from tests.attention.checks import images, randomised
from tests.attention.fused.comparing import (
    LAYOUTS,
    Block,
    as_fused,
    assert_close,
    assert_same,
    create,
    create_block,
    function_of,
    outcome,
)

pytestmark = pytest.mark.usefixtures("uncompiled")


def inputs(*shape, offset=0.0, dtype=torch.float64):
    u, shortcut = images(2, *shape).unbind()
    return [(u + offset).to(dtype).requires_grad_(), shortcut.to(dtype).requires_grad_()]


@st.composite
def blocks(draw):
    channels = draw(st.integers(1, 20))
    options = {"pools": draw(st.sampled_from([("avg", "max"), ("avg",), ("max", "avg")]))}
    options["gate"] = gate = draw(st.sampled_from(["sigmoid", "identity"]))
    options["kernel_size"] = draw(st.sampled_from([1, 3, 7]))
    options["spatial_relu"] = gate == "sigmoid" and draw(st.booleans())
    bn = nn.BatchNorm2d(
        channels,
        eps=draw(st.sampled_from([1e-5, 1e-2])),
        momentum=draw(st.sampled_from([None, 0.1, 1.0, 0.0])),
        track_running_stats=draw(st.sampled_from([True, True, False])),
    )
    block = create_block(channels, bn, reduction=draw(st.sampled_from([1, 4, 16])), **options).double()
    block.train(draw(st.booleans()))
    bn.train(draw(st.booleans()))
    with torch.no_grad():  # weights of both signs, and exactly 0
        block.bn.weight *= torch.tensor(draw(st.permutations([1, -1, 0]))).repeat(channels)[:channels]
    return block


@settings(derandomize=True, deadline=None, max_examples=120)
@given(st.data())
def test_equals_the_plain_operations(data):
    block = data.draw(blocks())
    shape = [data.draw(st.integers(1, 4)), len(block.bn.weight)]
    shape += [data.draw(st.integers(1, 9)) for _ in range(2)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    u = torch.randn(shape, generator=generator, dtype=torch.float64)
    shortcut = torch.randn(shape, generator=generator, dtype=torch.float64)
    if data.draw(st.booleans()):
        u = (2 * u).round() / 2
    layout = data.draw(st.sampled_from(LAYOUTS[4]))
    u, shortcut = (x.contiguous(memory_format=layout).requires_grad_() for x in (u, shortcut))
    # A single value per channel has hardly any variance: rounding is multiplied by 1 / sqrt(eps).
    fused = as_fused(block)
    assert_close(outcome(fused, u, shortcut), outcome(block, u, shortcut), 1e-12)


@pytest.mark.parametrize("batch_statistics", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("layout", LAYOUTS[4])
@pytest.mark.parametrize("shape", [(1, 8, 5, 4), (3, 8, 5, 4), (4, 8, 1, 1)])
def test_runs_fused_and_keeps_the_layout(shape, layout, batch_statistics):
    block = create_block().double()
    block.bn.train(batch_statistics)
    u, shortcut = (x.detach().contiguous(memory_format=layout).requires_grad_() for x in inputs(*shape))
    assert_same(block, u, shortcut)
    output = as_fused(block)(u, shortcut)
    assert output.is_contiguous(memory_format=layout)
    gradients = torch.autograd.grad(output.sum(), [u, shortcut])
    assert all(gradient.is_contiguous(memory_format=layout) for gradient in gradients)


@pytest.mark.parametrize(
    "make", [lambda: BasicBlock(4, 8, 2), lambda: Bottleneck(8, 2, 1)], ids=["basic", "bottleneck"]
)
def test_blocks_of_a_resnet_end_fused(make):
    block = make()
    block.attention = create("channel-spatial")
    x = images(3, block.conv1.in_channels, 6, 5).requires_grad_()
    assert_same(randomised(block).double(), x)
    assert function_of(as_fused(block)(x)) == "_ScaleAddReluBackward"


@pytest.mark.parametrize("batch_statistics", [True, False], ids=["batch", "running"])
def test_gradients_pass_gradcheck(batch_statistics):
    block = as_fused(create_block(4)).double()
    block.bn.train(batch_statistics)
    parameters = dict(block.named_parameters())

    def function(u, shortcut, *values):
        return functional_call(block, dict(zip(parameters, values, strict=True)), (u, shortcut))

    arguments = (*inputs(2, 4, 3, 5), *parameters.values())
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_a_large_mean_costs_no_more_digits_than_in_batch_norm(dtype, tolerance):
    block, given_inputs = create_block(), inputs(4, 8, 6, 5, offset=100.0)
    exact = outcome(copy.deepcopy(block).double(), *given_inputs)
    narrow = [x.detach().to(dtype).requires_grad_() for x in given_inputs]
    found = outcome(as_fused(block).to(dtype), *narrow)
    found = {name: v.double() if v.is_floating_point() else v for name, v in found.items()}
    assert_close(found, exact, tolerance)


@pytest.mark.parametrize("momentum", [None, 0.1, 0.0])
def test_running_statistics_are_equal_after_several_steps(momentum):
    block = create_block(bn=nn.BatchNorm2d(8, momentum=momentum)).double()
    fused = as_fused(block)
    for step in range(3):
        u, shortcut = inputs(2, 8, 5, 4, offset=step)
        block(u, shortcut)
        fused(u, shortcut)
    assert block.bn.num_batches_tracked == 3
    assert_close(dict(fused.named_buffers()), dict(block.named_buffers()), 1e-13)


def test_statistics_that_are_switched_off_later_stay():
    block = create_block().double()
    block.bn.track_running_stats = False
    assert_same(block, *inputs(2, 8, 5, 4))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_value_to_a_channel_is_refused_as_ever(training):
    for bn in (nn.BatchNorm2d(8), nn.BatchNorm2d(8, track_running_stats=False)):
        block = create_block(bn=bn).double().train(training)
        block.attention.eval()
        found = outcome(as_fused(block), *inputs(1, 8, 1, 1))
        assert_close(found, outcome(block, *inputs(1, 8, 1, 1)), 1e-12)
        assert (found is ValueError) == (training or not bn.track_running_stats)


def test_the_gradients_of_a_shortcut_that_is_the_input_add_up():
    block, (u, _) = create_block().double(), inputs(2, 8, 5, 4)
    fused = as_fused(block)
    expected, found = (torch.autograd.grad(b(u, u).square().sum(), u) for b in (block, fused))
    assert function_of(fused(u, u)) == "_ScaleAddReluBackward"
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "frozen",
    ["u", "shortcut", "u, shortcut", "bn.", "mlp", "spatial", "channel", "attention", "bn.,attention"],
)
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    block = create_block().double()
    parts = frozen.replace(" ", "").split(",")
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(not any(part in name for part in parts if part not in ("u", "shortcut")))
    u, shortcut = inputs(2, 8, 5, 4)
    u.requires_grad_("u" not in parts)
    shortcut.requires_grad_("shortcut" not in parts)
    assert_same(block, u, shortcut)


def hooked(part):
    def change(block):
        block.get_submodule(part).register_forward_hook(lambda *_: None)

    return change


def backward_hooked(part):
    def change(block):
        block.get_submodule(part).register_full_backward_hook(lambda *_: None)

    return change


def replaced(part, make):
    def change(block):
        parent, _, name = part.rpartition(".")
        setattr(block.get_submodule(parent), name, make(block.get_submodule(part)))

    return change


class Derived(CBAM):
    def forward(self, x):
        return 2 * super().forward(x)


def as_derived(attention):
    derived = copy.deepcopy(attention)
    derived.__class__ = Derived
    return derived


class DerivedBatchNorm(nn.BatchNorm2d):
    def forward(self, u):
        return super().forward(u) + 1


REASONS = {
    "hook on bn": hooked("bn"),
    "hook on attention": hooked("attention"),
    "hook on relu": hooked("relu"),
    "hook on the channel half": hooked("attention.channel"),
    "hook on the MLP": hooked("attention.channel.mlp"),
    "hook on a layer of the MLP": hooked("attention.channel.mlp.0"),
    "hook on the spatial half": hooked("attention.spatial"),
    "backward hook on bn": backward_hooked("bn"),
    "backward hook on the channel half": backward_hooked("attention.channel"),
    "BatchNorm without weight": replaced("bn", lambda _: nn.BatchNorm2d(8, affine=False)),
    "BatchNorm of another class": replaced("bn", lambda _: DerivedBatchNorm(8)),
    "GroupNorm": replaced("bn", lambda _: nn.GroupNorm(2, 8)),
    "parallel": replaced("attention", lambda _: create("parallel")),
    "spatial-channel": replaced("attention", lambda _: create("spatial-channel")),
    "channel": replaced("attention", lambda _: create("channel")),
    "spatial": replaced("attention", lambda _: create("spatial")),
    "other pools": replaced("attention", lambda _: create("channel-spatial", pools=("avg", "lse"))),
    "se": replaced("attention", lambda _: create("se")),
    "none": replaced("attention", lambda _: nn.Identity()),
    "subclass": replaced("attention", as_derived),
    "ReLU6": replaced("relu", lambda _: nn.ReLU6()),
    "dropout in the MLP": replaced(
        "attention.channel.mlp", lambda mlp: nn.Sequential(*mlp[:2], nn.Dropout(0.0), mlp[2])
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_falls_back_to_the_plain_operations(reason):
    block = create_block()
    REASONS[reason](block)
    block.double()
    u, shortcut = inputs(2, 8, 5, 4)
    fused = as_fused(block)
    output = fused(u, shortcut)
    assert function_of(output) != "_ScaleAddReluBackward"
    torch.testing.assert_close(output, block(u, shortcut), rtol=1e-12, atol=1e-12)
    assert_close(outcome(fused, u, shortcut), outcome(block, u, shortcut), 1e-12)


def test_hooks_see_what_they_see_in_the_plain_operations():
    block, seen = create_block().double(), []
    fused = as_fused(block)
    for part in (block, fused):
        part.attention.channel.register_forward_hook(lambda *given: seen.append(given[-1]))
        part(*inputs(2, 8, 5, 4))
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("part", ["attention.spatial.conv", "attention.spatial.bn"])
def test_hooks_in_the_spatial_half_are_called(part):
    block, seen = as_fused(create_block()).double(), []
    block.get_submodule(part).register_forward_hook(lambda *given: seen.append(given[-1].shape))
    assert function_of(block(*inputs(2, 8, 5, 4))) == "_ScaleAddReluBackward"
    assert seen == [(2, 1, 5, 4)]


def test_another_dtype_of_the_shortcut_falls_back():
    u, shortcut = inputs(2, 8, 5, 4, dtype=torch.float32)
    output = as_fused(create_block())(u, shortcut.double())
    assert output.dtype == torch.float64
    assert function_of(output) != "_ScaleAddReluBackward"


def test_a_broadcast_shortcut_falls_back():
    u, _ = inputs(2, 8, 5, 4)
    shortcut = images(1, 8, 1, 1).requires_grad_()
    block = create_block().double()
    assert_close(outcome(as_fused(block), u, shortcut), outcome(block, u, shortcut), 1e-12)


def test_synchronised_batch_norm_falls_back():
    block = nn.SyncBatchNorm.convert_sync_batchnorm(create_block()).double().eval()
    fused = as_fused(block)
    assert isinstance(fused.bn, nn.SyncBatchNorm)
    u, shortcut = inputs(2, 8, 5, 4)
    output = fused(u, shortcut)
    assert function_of(output) != "_ScaleAddReluBackward"
    torch.testing.assert_close(output, block(u, shortcut), rtol=1e-12, atol=1e-12)


def test_the_plain_block_stays_available():
    block = Block(create("channel-spatial")).double()
    assert function_of(block(*inputs(2, 8, 5, 4))) == "ReluBackward0"
