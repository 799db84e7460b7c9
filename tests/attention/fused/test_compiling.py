"""The compiled passes."""

import warnings

import pytest
import torch

from cbam_lightning.attention.fused import compiling
from cbam_lightning.attention.fused.compiling import Pass
from cbam_lightning.attention.fused.convolution import convolve
from cbam_lightning.attention.positions import CONVOLUTIONS
from tests.attention.checks import images
from tests.attention.fused.comparing import assert_same, create, create_block


@pytest.fixture(autouse=True)
def forget():
    yield
    torch.compiler.reset()


def compilations():
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("arrangement", ["channel-spatial", pytest.param("se", marks=pytest.mark.slow)])
def test_compiled_attention_equals_the_reference(arrangement):
    x = images(2, 8, 6, 5).float().to(memory_format=torch.channels_last).requires_grad_()
    assert_same(create(arrangement), x, tolerance=1e-5)
    made = compilations()
    assert made > 0
    assert_same(create(arrangement), x, tolerance=1e-5)
    assert compilations() == made


@pytest.mark.slow
def test_a_compiled_block_equals_the_plain_operations():
    u, shortcut = (images(2, 8, 6, 5).float().roll(i).requires_grad_() for i in range(2))
    assert_same(create_block(), u, shortcut, tolerance=1e-5)


@pytest.mark.parametrize(
    "shape", [(2, 2, 20, 9), pytest.param((2, 2, 4, 5, 6), marks=pytest.mark.slow)], ids=str
)
def test_a_compiled_convolution_equals_the_library(shape):
    conv = CONVOLUTIONS[len(shape) - 2](2, 1, 7, padding=3, bias=False)
    maps = images(*shape).float().requires_grad_()
    outputs = convolve(conv, maps), conv(maps)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), [maps, conv.weight]) for y in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_many_shapes_share_one_version(monkeypatch):
    monkeypatch.setattr(compiling, "MAX_SHAPES", 2)
    double = Pass(lambda x: (2 * x,))
    made = []
    for length in (3, 4, 5, 99, 3):
        x = torch.arange(float(length))
        assert torch.equal(double(x)[0], 2 * x)
        made.append(compilations())
    assert len(double._versions) == 3
    assert made[0] < made[1] < made[2] == made[3] == made[4]


def test_without_a_compiler_the_function_runs_as_it_is_and_says_so_once(monkeypatch):
    def failing(function, **options):
        def run(*args):
            message = "g++ is broken\nand more"
            raise RuntimeError(message)

        return run

    monkeypatch.setattr(torch, "compile", failing)
    double = Pass(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="g\\+\\+ is broken Fix the compiler, or set .* implementation"):
        assert double(torch.tensor(2.0)) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(torch.tensor(3.0)) == 6


def test_a_mistake_in_the_arguments_is_not_blamed_on_the_compiler():
    add = Pass(lambda x, y: x + y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="size of tensor a"):
            add(torch.ones(2), torch.ones(3))
