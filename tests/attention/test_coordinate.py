"""Coordinate attention against its formula and timm's."""

import pytest
import torch
from timm.layers.coord_attn import CoordAttn

from cbam_lightning.attention import CoordinateAttention
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = {1: (3, 6, 9), 2: (3, 6, 5, 4), 3: (3, 6, 3, 4, 2)}


def hard_swish(z):
    return z * (z + 3).clamp(0, 6) / 6


def coordinate(x, weights, gate, training):
    """Take the profiles position by position, and multiply with the gate of one axis after the other."""
    sizes, profiles = x.shape[2:], []
    for axis, size in enumerate(sizes, start=2):
        for position in range(size):
            cut = x.select(axis, position).flatten(2) if x.ndim > 3 else x[:, :, [position]]
            profiles.append(cut.sum(2) / cut.shape[2])
    hidden = literal.convolve_layer(torch.stack(profiles, dim=2), weights, "squeeze")
    hidden = hard_swish(literal.normalise_layer(hidden, weights, "bn", training))
    start = 0
    for number, size in enumerate(sizes):
        logits = literal.convolve_layer(hidden[:, :, start : start + size], weights, f"excite.{number}")
        around = [1] * number, [1] * (len(sizes) - number - 1)
        x = x * literal.sigmoid(logits, gate).reshape(*logits.shape[:2], *around[0], size, *around[1])
        start += size
    return x


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(dims, gate, training):
    module = randomised(CoordinateAttention(6, dims=dims, gate=gate).double().train(training))
    assert_equals_literal(
        module,
        lambda x, weights: coordinate(x, weights, gate, training),
        SHAPES[dims],
        ["squeeze.bias"] if training else (),  # a BatchNorm in training removes what is added before it
    )


@pytest.mark.parametrize("reduction", [2, 8, 32])
def test_equals_its_formula_with_more_hidden_channels_than_the_least(reduction):
    module = randomised(CoordinateAttention(64, reduction).double().eval())
    assert module.bn.num_features == max(8, 64 // reduction)
    x = images(2, 64, 5, 4)
    expected = coordinate(x, module.state_dict(), "sigmoid", training=False)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_that_of_timm(training):
    ours = randomised(CoordinateAttention(16).double().train(training))
    theirs = CoordAttn(16, rd_channels=8, bias=True).double().train(training)
    layers = {"conv1": ours.squeeze, "bn1": ours.bn, "conv_h": ours.excite[0], "conv_w": ours.excite[1]}
    for name, layer in layers.items():
        state = layer.state_dict()
        if name != "bn1":
            state["weight"] = state["weight"][..., None]
        theirs.get_submodule(name).load_state_dict(state)
    x = images(2, 16, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_gate_map_is_what_the_input_is_multiplied_with():
    module, x = randomised(CoordinateAttention(6).double()).eval(), images(2, 6, 5, 4)
    gate = module.gate_maps(x)["both"]
    assert gate.shape == x.shape
    assert 0 < gate.min() < gate.max() < 1
    assert torch.equal(module(x), x * gate)


@pytest.mark.parametrize(("shape", "sizes"), [((2, 6, 5, 4), (5, 4)), ((2, 6, 3, 4, 2), (3, 4, 2))])
def test_gates_stay_profiles(shape, sizes):
    gates = CoordinateAttention(6, dims=len(sizes)).parts(images(*shape).float())
    ones = [1] * (len(sizes) - 1)
    assert [g.shape for g in gates] == [(2, 6, *ones[:a], s, *ones[a:]) for a, s in enumerate(sizes)]


@pytest.mark.parametrize(("channels", "hidden"), [(3, 8), (256, 8), (512, 16)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_number_of_parameters(channels, hidden, dims):
    squeeze, bn, excite = channels * hidden + hidden, 2 * hidden, hidden * channels + channels
    module = CoordinateAttention(channels, dims=dims)
    assert sum(p.numel() for p in module.parameters()) == squeeze + bn + dims * excite


def test_it_starts_as_in_the_authors_network():
    torch.manual_seed(0)
    module = CoordinateAttention(512)
    for conv in (module.squeeze, *module.excite):
        assert not conv.bias.any()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / conv.out_channels) ** 0.5, rel=0.05)
    assert (module.bn.weight == 1).all()


def test_only_the_last_layers_of_the_identity_start_at_zero():
    module = CoordinateAttention(64, gate="identity")
    assert module.squeeze.weight.all()
    assert not any(conv.weight.any() for conv in module.excite)


def test_a_single_profile_of_one_position_is_refused_in_training_alone():
    module, x = CoordinateAttention(8, dims=1), torch.ones(1, 8, 1)
    with pytest.raises(UsageError, match=r"Coordinate.* was given \(1, 8, 1\) in training, .* two\. Use"):
        module(x)
    assert module.eval()(x).shape == x.shape
    module.train().bn.eval()  # as in fine-tuning with frozen statistics
    assert module(x).shape == x.shape
    assert module.train()(torch.cat([x, x])).shape == (2, 8, 1)
    assert CoordinateAttention(8)(x[..., None]).isfinite().all()  # two profiles


def test_printing_shows_the_options():
    assert "gate='identity'" in repr(CoordinateAttention(8, gate="identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"dims": 4}, "dims is 4"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        CoordinateAttention(**{"channels": 8, **options})
