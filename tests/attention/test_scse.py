"""ScSE against its formula."""

import pytest
import torch

from cbam_lightning.attention import SCSE
from cbam_lightning.errors import UsageError
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = [(2, 6, 9), (2, 6, 5, 4), (2, 6, 3, 4, 2)]


def sigmoid(logits, gate):
    value = 1 / (1 + torch.exp(-logits))
    return 2 * value if gate == "identity" else value


def literal(x, weights, combination, gate):
    """Combine the map that is gated by channels and the map that is gated by positions."""
    means = torch.stack([torch.stack([plane.sum() / plane.numel() for plane in image]) for image in x])
    hidden = (means @ weights["channel.mlp.0.weight"].T + weights["channel.mlp.0.bias"]).clamp(min=0)
    logits = hidden @ weights["channel.mlp.2.weight"].T + weights["channel.mlp.2.bias"]
    by_channel = x * sigmoid(logits, gate).reshape(*logits.shape, *[1] * (x.ndim - 2))
    logits = weights["spatial.bias"] + sum(
        w * x[:, c] for c, w in enumerate(weights["spatial.weight"][0, :, 0])
    )
    by_position = x * sigmoid(logits, gate)[:, None]
    if combination == "max":
        return torch.maximum(by_channel, by_position)
    return (by_channel + by_position) / (2 if gate == "identity" else 1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("combination", ["max", "add"])
@pytest.mark.parametrize("reduction", [2, 3, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_equals_its_formula(shape, reduction, combination, gate, training):
    module = randomised(SCSE(6, reduction, combination, gate).double().train(training))
    assert_equals_literal(module, lambda x, weights: literal(x, weights, combination, gate), shape)


@pytest.mark.parametrize("combination", ["max", "add"])
def test_zeros_after_a_relu_have_the_gradient_of_the_formula(combination):
    module = randomised(SCSE(6, combination=combination).double())
    x = images(2, 6, 5, 4).relu().requires_grad_()
    cotangent = images(2, 6, 5, 4).cos()
    expected = torch.autograd.grad(literal(x, module.state_dict(), combination, "sigmoid"), x, cotangent)
    torch.testing.assert_close(torch.autograd.grad(module(x), x, cotangent), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("combination", ["max", "add"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gate_map_is_what_the_input_is_multiplied_with(combination, memory_format):
    module = randomised(SCSE(6, combination=combination).double())
    x = images(2, 6, 5, 4).contiguous(memory_format=memory_format)
    gate = module.gate_maps(x)["both"]
    assert gate.shape == x.shape
    assert torch.equal(module(x), x * gate)


def test_the_maximum_takes_the_smaller_gate_of_a_negative_value():
    module = randomised(SCSE(6).double())
    x = images(2, 6, 5, 4)
    channel, spatial = (gate.expand_as(x) for gate in module.parts(x))
    gate = module.gate_map(x)
    assert torch.equal(gate[x > 0], torch.maximum(channel, spatial)[x > 0])
    assert torch.equal(gate[x < 0], torch.minimum(channel, spatial)[x < 0])
    assert not torch.equal(x * torch.maximum(channel, spatial), module(x))


def test_the_identity_start_of_the_sum_is_the_published_sum():
    published, inserted = randomised(SCSE(6, combination="add")), SCSE(6, combination="add", gate="identity")
    inserted.load_state_dict(published.state_dict())
    x = images(2, 6, 5, 4, dtype=torch.float32)
    torch.testing.assert_close(inserted(x), published(x))


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(64, 2, 32), (64, 16, 4), (3, 16, 1)])
def test_number_of_parameters(channels, reduction, hidden):
    module = SCSE(channels, reduction)
    expected = channels * hidden + hidden + hidden * channels + channels  # squeeze-and-excitation with biases
    expected += channels + 1  # the 1x1 convolution
    assert sum(p.numel() for p in module.parameters()) == expected


def test_defaults_are_those_of_the_authors_code():
    module = SCSE(64)
    assert module.combination == "max"
    assert module.channel.mlp[0].out_features == 32


def test_biases_start_at_zero():
    module = SCSE(64)
    assert not any(p.any() for name, p in module.named_parameters() if name.endswith("bias"))
    assert all(p.any() for name, p in module.named_parameters() if name.endswith("weight"))


def test_printing_shows_the_options():
    assert "combination='add', gate='identity'" in repr(SCSE(8, combination="add", gate="identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"combination": "mul"}, "unknown combination 'mul'"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        SCSE(**{"channels": 8, **options})
