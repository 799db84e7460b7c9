"""Bytes kept for the backward pass, against what each function is known to need."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbam_lightning.benchmarks.memory import saved_bytes

N, C, H, W = 2, 3, 4, 6
MAP = 4 * N * C * H * W  # bytes


@pytest.fixture
def x():
    return torch.randn(N, C, H, W, requires_grad=True)


@pytest.fixture
def y():
    return torch.randn(N, C, H, W, requires_grad=True)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.sum, 0),
        (F.relu, MAP),  # its output
        (torch.exp, MAP),  # its output
        (torch.log, MAP),  # its input
        (lambda x: x.exp().relu(), 2 * MAP),
        (lambda x: x.sigmoid().exp(), 2 * MAP),  # both outputs
        (lambda x: x.exp() * 2.0, MAP),
        (lambda x: F.max_pool2d(x, 2), MAP + 8 * N * C * (H // 2) * (W // 2)),  # input, and int64 places
        (lambda x: x.amax((2, 3)), MAP + 4 * N * C),
    ],
)
def test_a_function_keeps_what_it_is_known_to_keep(function, expected, x):
    assert saved_bytes(lambda: function(x)) == expected


def test_a_product_keeps_both_factors(x, y):
    assert saved_bytes(lambda: x * y) == 2 * MAP
    assert saved_bytes(lambda: x * y, exclude=[y]) == MAP
    assert saved_bytes(lambda: x * y, exclude=[x, y]) == 0


def test_a_factor_without_a_gradient_is_all_that_a_product_keeps(x):
    assert saved_bytes(lambda: x * torch.ones(C, 1, 1)) == 4 * C


def test_a_storage_counts_once_and_whole(x):
    assert saved_bytes(lambda: x * x) == MAP
    assert saved_bytes(lambda: x.flatten() * x.transpose(2, 3).transpose(2, 3).flatten()) == MAP
    assert saved_bytes(lambda: x[0] * x[1]) == MAP
    assert saved_bytes(lambda: x[:1, :1].log()) == MAP


def test_a_storage_that_was_freed_does_not_hide_the_next_one(x):
    def three_times():
        for _ in range(3):
            x.exp().sum()

    assert saved_bytes(three_times) == 3 * MAP


def test_layers_keep_their_input_beside_parameters_and_buffers(x):
    bn, conv = nn.BatchNorm2d(C), nn.Conv2d(C, 5, 3)
    state = [*bn.parameters(), *bn.buffers(), *conv.parameters()]
    mean_and_deviation = 2 * 4 * C
    assert saved_bytes(lambda: bn(x), exclude=state) == MAP + mean_and_deviation
    assert saved_bytes(lambda: conv(x), exclude=state) == MAP
    assert saved_bytes(lambda: conv(x)) == MAP + 4 * 5 * C * 9
    assert saved_bytes(lambda: conv(bn(x)), exclude=state) == 2 * MAP + mean_and_deviation


def test_nothing_is_kept_without_gradients(x):
    with torch.no_grad():
        assert saved_bytes(lambda: x.exp()) == 0
    assert saved_bytes(lambda: x.detach().exp()) == 0


def test_the_tensors_of_a_custom_function_count(x):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x.double())
            return x * 2

    assert saved_bytes(lambda: Doubled.apply(x)) == 2 * MAP


def test_the_call_can_be_followed_by_its_backward_pass(x):
    outputs = []
    assert saved_bytes(lambda: outputs.append(x.exp())) == MAP
    outputs[0].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp())
