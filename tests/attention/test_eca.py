"""ECA against its formula."""

import math

import pytest
import torch

from cbam_lightning.attention import ECA
from cbam_lightning.attention.eca import adaptive_kernel_size
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 6, 5, 4), (2, 6, 3, 4, 2)], ids=len)
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("kernel_size", [None, 1, 3, 5])
def test_equals_its_formula(kernel_size, gate, shape):
    module = randomised(ECA(6, kernel_size, gate=gate).double())
    assert_equals_literal(module, lambda x, weights: literal.eca(x, weights, gate), shape)


def test_a_kernel_wider_than_the_channels_equals_its_formula():
    module, x = randomised(ECA(3, kernel_size=9).double()), images(2, 3, 5, 4)
    expected = literal.eca(x, module.state_dict(), "sigmoid")
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


# 64, 256 and 512 by hand: (6 + 1) / 2 = 3.5, (8 + 1) / 2 = 4.5 and (9 + 1) / 2 = 5.
@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (8, 3), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)]
)
def test_kernel_size_follows_from_the_channels(channels, size):
    assert adaptive_kernel_size(channels) == size
    assert ECA(channels).conv.weight.shape == (1, 1, size)


@pytest.mark.parametrize(
    ("gamma", "beta", "size"), [(1, 1, 9), (2, 1, 5), (0.5, 1, 19), (2, 5, 7), (2, -9, 1)]
)
def test_gamma_and_beta_change_the_kernel_size(gamma, beta, size):
    assert abs(abs((math.log2(256) + beta) / gamma) - size) <= 1
    assert ECA(256, gamma=gamma, beta=beta).conv.kernel_size == (size,)


def test_has_one_kernel_and_no_bias():
    assert [(name, p.shape) for name, p in ECA(64).named_parameters()] == [("conv.weight", (1, 1, 3))]


def test_gate_map_is_what_the_input_is_multiplied_with():
    module, x = randomised(ECA(6).double()), images(2, 6, 5, 4)
    assert module.gate_map(x).shape == (2, 6, 1, 1)
    assert torch.equal(module(x), x * module.gate_map(x))


def test_printing_shows_the_options():
    assert "gate='identity'" in repr(ECA(8, gate="identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4, which has no centre; give an odd number"),
        ({"kernel_size": -3}, "kernel_size is -3"),
        ({"gamma": 0}, "gamma is 0; give a number above 0"),
        ({"gamma": "2"}, "gamma is '2'; give a number above 0"),
        ({"beta": float("nan")}, "beta is nan; give a number"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        ECA(**{"channels": 8, **options})
