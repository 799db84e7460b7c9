"""SimAM against its formula."""

import math

import pytest
import torch

from cbam_lightning.attention import SimAM
from cbam_lightning.errors import UsageError
from tests.attention.checks import assert_equals_literal, images

SHAPES = [(2, 6, 9), (2, 6, 5, 4), (2, 6, 3, 4, 2)]


def plane_gate(plane, e_lambda):
    values = plane.flatten()
    mean = values.sum() / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    energies = 4 * (variance + e_lambda) / ((plane - mean) ** 2 + 2 * variance + 2 * e_lambda)
    return 1 / (1 + torch.exp(-1 / energies))


def literal(x, e_lambda):
    """Multiply each value with the sigmoid of 1 / its minimal energy, equation 5 of the paper."""
    return torch.stack([torch.stack([p * plane_gate(p, e_lambda) for p in image]) for image in x])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("e_lambda", [1e-4, 0.1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_equals_its_formula(shape, e_lambda, training):
    module = SimAM(6, e_lambda).double().train(training)
    assert_equals_literal(module, lambda x, _: literal(x, e_lambda), shape)


def test_gate_map_is_what_the_input_is_multiplied_with():
    module, x = SimAM(6), images(2, 6, 5, 4)
    gate = module.gate_maps(x)["both"]
    assert gate.shape == x.shape
    assert torch.equal(module(x), x * gate)
    assert 1 / (1 + math.exp(-0.5)) <= gate.min() < gate.max() < 1


def test_values_far_from_the_mean_have_larger_gates():
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1
    gate = SimAM(1).gate_map(x)[0, 0]
    # By hand: mean 1/9; squares 1/81 and 64/81; variance (8 + 64) / 81 / 8 = 1/9.
    expected = {at: square / 81 / (4 * (1 / 9 + 1e-4)) + 0.5 for at, square in (((0, 0), 1), ((1, 1), 64))}
    for at, energy in expected.items():
        assert float(gate[at]) == pytest.approx(1 / (1 + math.exp(-energy)), rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 1, 1), (1, 3, 1, 1, 1)], ids=len)
def test_a_map_of_one_position_has_a_constant_gate(shape):
    x = images(*shape).requires_grad_()
    output = SimAM(3)(x)
    output.sum().backward()
    gate = 1 / (1 + math.exp(-0.5))
    torch.testing.assert_close(output, gate * x)
    torch.testing.assert_close(x.grad, torch.full_like(x, gate))


def test_a_constant_map_has_a_finite_gradient():
    x = torch.full((2, 3, 4, 4), 7.0, requires_grad=True)
    SimAM(3)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / (1 + math.exp(-0.5))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_large_values_do_not_overflow(dtype):
    x = (1e4 * images(2, 8, 20, 20).sign()).to(dtype).requires_grad_()
    x.data[1, :, 0] *= 3  # 9e8 squared deviations of 3e4
    output = SimAM(8)(x)
    output.sum().backward()
    expected = literal(x.detach().double(), 1e-4)
    torch.testing.assert_close(output.double(), expected, rtol=0.01, atol=0)
    assert x.grad.isfinite().all()


def test_has_no_parameters_and_no_buffers():
    assert not SimAM(8).state_dict()


def test_printing_shows_the_options():
    assert repr(SimAM(8, 0.1)) == "SimAM(e_lambda=0.1, gate='sigmoid')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"e_lambda": 0}, "e_lambda is 0; give a number above 0"),
        ({"e_lambda": float("nan")}, "e_lambda is nan; give a number above 0"),
        ({"e_lambda": 1e-50}, "e_lambda is 1e-50, which float32 cannot hold; give 1e-37 or more"),
        ({"e_lambda": "0.1"}, "e_lambda is '0.1'; give a number above 0"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
        (
            {"gate": "identity"},
            "^SimAM has no parameters, .* identity nor learn.*gate='sigmoid'",
        ),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message) as error:
        SimAM(**{"channels": 8, **options})
    assert "\n" not in str(error.value)
