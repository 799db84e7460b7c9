"""The global context block against its formula, and against timm."""

import itertools

import pytest
import torch
from timm.layers.global_context import GlobalContext as Timm

from cbam_lightning.attention import GlobalContext
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = [(2, 8, 9), (2, 8, 5, 4), (2, 8, 3, 4, 2)]
FUSION = pytest.mark.parametrize("fusion", ["add", "scale"])
FORMS = [("add", "sigmoid"), ("scale", "sigmoid"), ("scale", "identity")]


def attention_of(image, weights):
    """Weigh every position of (C, *positions)."""
    scores = torch.stack([(weights["attend.weight"][0, :, 0] * p).sum().exp() for p in image.flatten(1).T])
    return scores / scores.sum()


def formula(x, weights, fusion, gate, eps=1e-5):
    results = []
    for image in x:
        attention = attention_of(image, weights)
        context = sum(a * position for a, position in zip(attention, image.flatten(1).T, strict=True))
        hidden = weights["mlp.fc1.weight"] @ context + weights["mlp.fc1.bias"]
        mean = hidden.sum() / len(hidden)
        variance = ((hidden - mean) ** 2).sum() / len(hidden)
        normal = (hidden - mean) / (variance + eps).sqrt()
        normal = (normal * weights["mlp.norm.weight"] + weights["mlp.norm.bias"]).clamp(min=0)
        term = weights["mlp.fc2.weight"] @ normal + weights["mlp.fc2.bias"]
        term = term.reshape(-1, *[1] * (x.ndim - 2))
        results.append(image + term if fusion == "add" else image * literal.sigmoid(term, gate))
    return torch.stack(results)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize(("fusion", "gate"), FORMS)
@pytest.mark.parametrize(("reduction", "eps"), [(2, 1e-5), (1, 1e-2)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_its_formula(training, reduction, eps, fusion, gate, shape):
    module = randomised(GlobalContext(8, reduction, fusion, gate, eps).double()).train(training)
    assert_equals_literal(module, lambda x, weights: formula(x, weights, fusion, gate, eps), shape)


@pytest.mark.parametrize(("fusion", "name"), [("add", "mlp_add"), ("scale", "mlp_scale")])
def test_equals_timm(fusion, name):
    module = randomised(GlobalContext(32, reduction=8, fusion=fusion, eps=1e-6))
    theirs = Timm(32, fuse_add=fusion == "add", fuse_scale=fusion == "scale")
    ours = module.state_dict()
    state = {"conv_attn.weight": ours["attend.weight"][..., None], "conv_attn.bias": torch.ones(1)}
    for layer, kind in itertools.product(("fc1", "norm", "fc2"), ("weight", "bias")):
        value = ours[f"mlp.{layer}.{kind}"]
        state[f"{name}.{layer}.{kind}"] = value[:, :, None, None] if value.ndim == 2 else value
    theirs.load_state_dict(state)  # all of its keys
    x = images(2, 32, 7, 5, dtype=torch.float32)
    torch.testing.assert_close(module(x), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"), [(256, 16, 16), (64, 8, 8), (32, 16, 3), (1, 1, 3)]
)
@FUSION
def test_number_of_parameters(channels, reduction, hidden, fusion):
    module = GlobalContext(channels, reduction, fusion)
    expected = channels + (channels * hidden + hidden) + 2 * hidden + (hidden * channels + channels)
    assert sum(p.numel() for p in module.parameters()) == expected


def test_three_hidden_units_are_the_least_that_a_layer_norm_lets_vary():
    torch.manual_seed(0)
    normal = GlobalContext(3).mlp[:2](images(20, 3, dtype=torch.float32))
    assert normal.shape == (20, 3)
    assert normal.abs().std() > 0.1


@FUSION
def test_it_starts_as_in_the_authors_code(fusion):
    torch.manual_seed(0)
    module, x = GlobalContext(512, fusion=fusion), images(2, 512, 3, 2, dtype=torch.float32)
    assert torch.equal(module(x), x if fusion == "add" else x / 2)
    assert abs(module.attend.weight.std() / (2 / 512) ** 0.5 - 1) < 0.1
    assert 0.95 * 512**-0.5 < module.mlp.fc1.weight.abs().max() <= 512**-0.5
    assert 0 < module.mlp.fc1.bias.abs().max() <= 512**-0.5
    assert (module.mlp.norm.weight == 1).all()
    assert not module.mlp.norm.bias.any()
    assert not module.mlp.fc2.weight.any()
    assert not module.mlp.fc2.bias.any()


@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
def test_gate_maps_of_scaling_are_what_the_input_is_multiplied_with(gate):
    module, x = randomised(GlobalContext(8, fusion="scale", gate=gate).double()), images(2, 8, 5, 4)
    maps = module.gate_maps(x)
    assert maps.keys() == {"channel"}
    assert maps["channel"].shape == (2, 8, 1, 1)
    assert torch.equal(module(x), x * maps["channel"])


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_gate_maps_of_adding_are_the_attention_that_positions_receive(shape):
    module, x = randomised(GlobalContext(8).double()), images(*shape)
    maps = module.gate_maps(x)
    assert maps.keys() == {"attention"}
    assert maps["attention"].shape == (2, 1, *shape[2:])
    expected = torch.stack([attention_of(image, module.state_dict()) for image in x]) * x[0, 0].numel()
    torch.testing.assert_close(maps["attention"].flatten(1), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(maps["attention"].flatten(1).mean(1), torch.ones(2, dtype=x.dtype))


def test_a_single_position_receives_all_attention():
    assert GlobalContext(8).gate_maps(images(2, 8, 1, 1).float())["attention"].flatten().tolist() == [1, 1]


def test_printing_shows_the_options():
    assert "fusion='scale', gate='identity'" in repr(GlobalContext(8, fusion="scale", gate="identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"fusion": "mul"}, "unknown fusion 'mul'.*Allowed: add, scale"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
        ({"eps": 0}, "eps is 0; give a number above 0"),
        ({"eps": "1e-5"}, "eps is '1e-5'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        GlobalContext(**{"channels": 8, **options})
