"""Effective squeeze-and-excitation against its formula, and against timm."""

import pytest
import torch
from timm.layers.squeeze_excite import EffectiveSEModule

from cbam_lightning.attention import EffectiveSE
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = [(2, 6, 9), (2, 6, 5, 4), (2, 6, 3, 4, 2)]


def formula(x, weights, gate):
    logits = literal.pool_planes(x, "avg") @ weights["fc.weight"].T + weights["fc.bias"]
    hard = (logits + 3).clamp(0, 6) / 6
    gates = {"hard_sigmoid": hard, "identity": 2 * hard, "sigmoid": 1 / (1 + torch.exp(-logits))}[gate]
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid", "identity"])
def test_equals_its_formula(gate, shape):
    module = randomised(EffectiveSE(6, gate).double())
    assert_equals_literal(module, lambda x, weights: formula(x, weights, gate), shape)


def test_the_gate_is_cut_at_both_ends():
    module = EffectiveSE(3).double()
    with torch.no_grad():
        module.fc.weight.zero_()
        module.fc.bias.copy_(torch.tensor([-3.5, 1.5, 3.5]))
    assert module.gate_map(images(1, 3, 2, 2)).flatten().tolist() == [0, 0.75, 1]


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
def test_equals_timm(gate):
    module, theirs = randomised(EffectiveSE(16, gate)), EffectiveSEModule(16, gate_layer=gate)
    theirs.fc.weight.data = module.fc.weight.data[:, :, None, None]
    theirs.fc.bias.data = module.fc.bias.data
    x = images(2, 16, 7, 5, dtype=torch.float32)
    torch.testing.assert_close(module(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_the_default_is_the_gate_of_timm_and_of_the_authors_code():
    assert EffectiveSE(8).gate == "hard_sigmoid"
    assert type(EffectiveSEModule(8).gate).__name__ == "Hardsigmoid"


def test_has_one_layer_of_full_width():
    sizes = {name: tuple(p.shape) for name, p in EffectiveSE(32).named_parameters()}
    assert sizes == {"fc.weight": (32, 32), "fc.bias": (32,)}


def test_it_starts_as_in_the_authors_networks():
    torch.manual_seed(0)
    fc = EffectiveSE(256).fc
    assert abs(fc.weight.std() / (2 / 256) ** 0.5 - 1) < 0.02
    assert abs(fc.weight.mean()) < 1e-3
    assert 0.9 / 16 < fc.bias.abs().max() <= 1 / 16  # uniform between -1 / sqrt(C) and 1 / sqrt(C)


def test_the_identity_starts_from_zeros():
    module = EffectiveSE(8, "identity")
    assert not any(parameter.any() for parameter in module.parameters())
    assert torch.equal(module.gate_map(images(2, 8, 5, 4)), torch.ones(2, 8, 1, 1, dtype=torch.float64))


def test_gate_map_is_what_the_input_is_multiplied_with():
    module, x = randomised(EffectiveSE(6).double()), images(2, 6, 5, 4)
    assert module.gate_maps(x).keys() == {"channel"}
    assert module.gate_map(x).shape == (2, 6, 1, 1)
    assert torch.equal(module(x), x * module.gate_map(x))


def test_printing_shows_the_gate():
    assert "gate='hard_sigmoid'" in repr(EffectiveSE(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"gate": "hard"}, r"unknown gate 'hard'.*Allowed: hard_sigmoid, identity, sigmoid"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        EffectiveSE(**{"channels": 8, **options})
