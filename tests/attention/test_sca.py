"""SCA-CNN's attention against its formulas."""

import itertools
import math

import pytest
import torch

from cbam_lightning.attention import SCA, create_attention
from cbam_lightning.errors import UsageError
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = {1: (2, 6, 9), 2: (2, 6, 5, 4), 3: (2, 6, 3, 4, 2)}
ORDERS = ("channel-spatial", "spatial-channel")
GATES = ("scaled", "softmax", "identity")
WITHOUT_GRADIENT = ("channel.score.bias", "spatial.score.bias")  # a constant changes no softmax


def softmax(logits, gate):
    powers = [torch.exp(logit) for logit in logits]
    factor = {"softmax": 1, "scaled": len(logits), "identity": len(logits)}[gate]
    return torch.stack([factor * power / sum(powers) for power in powers])


def logit(entry, weights, part, context):
    """Compute the logit of one entry, a vector of features."""
    hidden = weights[f"{part}.hidden.weight"][:, :, 0] @ entry + weights[f"{part}.hidden.bias"]
    if context is not None:
        hidden = hidden + weights[f"{part}.context.weight"] @ context
    return (weights[f"{part}.score.weight"][0, :, 0] * hidden.tanh()).sum() + weights[f"{part}.score.bias"][0]


def channel_wise(image, weights, gate, context):
    means = [plane.sum() / plane.numel() for plane in image]
    beta = softmax([logit(mean[None], weights, "channel", context) for mean in means], gate)
    return beta.reshape(-1, *[1] * (image.ndim - 1))


def spatial(image, weights, gate, context):
    positions = image.flatten(1).unbind(1)
    alpha = softmax([logit(position, weights, "spatial", context) for position in positions], gate)
    return alpha.reshape(1, *image.shape[1:])


def literal(x, weights, order, gate, contexts=None):
    scaled = []
    for number, image in enumerate(x):
        context = None if contexts is None else contexts[number]
        for step in {"channel": [channel_wise, spatial], "spatial": [spatial, channel_wise]}[
            order.split("-")[0]
        ]:
            image = image * step(image, weights, gate, context)
        scaled.append(image)
    return torch.stack(scaled)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(dims, order, gate, training):
    module = randomised(SCA(6, 2, order, gate=gate).double()).train(training)
    assert_equals_literal(
        module, lambda x, weights: literal(x, weights, order, gate), SHAPES[dims], WITHOUT_GRADIENT
    )


class Conditioned(torch.nn.Module):
    """Give a module its context as a parameter, so that its gradient is compared, too."""

    def __init__(self, module, context):
        super().__init__()
        self.module, self.contexts = module, torch.nn.Parameter(context)

    def forward(self, x):
        return self.module(x, self.contexts)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("order", ORDERS)
def test_equals_its_formula_with_a_context(order, gate):
    module = Conditioned(randomised(SCA(6, 2, order, 5, gate).double()), images(2, 5))

    def formula(x, weights):
        inner = {name.removeprefix("module."): value for name, value in weights.items()}
        return literal(x, inner, order, gate, weights["contexts"])

    without = tuple(f"module.{name}" for name in WITHOUT_GRADIENT)
    assert_equals_literal(module, formula, without_gradient=without)


def test_without_a_context_the_map_alone_decides():
    module = randomised(SCA(6, 2, context_features=5).double())
    plain = SCA(6, 2).double()
    plain.load_state_dict({key: v for key, v in module.state_dict().items() if "context" not in key})
    x = images(2, 6, 5, 4)
    assert torch.equal(module(x), plain(x))
    assert torch.equal(module(x, torch.zeros(2, 5)), plain(x))
    assert not torch.allclose(module(x, images(2, 5)), plain(x))
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("order", ORDERS)
def test_gate_maps_are_the_factors_in_their_order(order, gate):
    module = randomised(SCA(6, order=order, context_features=5, gate=gate).double())
    x, context = images(2, 6, 5, 4), images(2, 5)
    maps = module.gate_maps(x, context)
    assert list(maps) == order.split("-")
    assert maps["channel"].shape == (2, 6, 1, 1)
    assert maps["spatial"].shape == (2, 1, 5, 4)
    first, second = maps.values()
    assert torch.equal(module(x, context), x * first * second)
    for values in maps.values():
        total = values.flatten(1).sum(1)
        entries = 1 if gate == "softmax" else values[0].numel()
        torch.testing.assert_close(total, torch.full_like(total, entries))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_starts_as_the_identity_for_every_number_of_channels_and_positions(order, dtype):
    for channels, side in [(1, 1), (3, 7), (41, 11), (49, 1), (7, 61)]:
        x = images(2, channels, side, side + 2).to(dtype)
        module = SCA(channels, order=order, context_features=5, gate="identity")
        assert torch.equal(module(x), x)
        assert torch.equal(module(x, images(2, 5).float()), x)


def test_parameters_are_those_of_the_equations():
    def count(**options):
        return sum(p.numel() for p in SCA(64, **options).parameters())

    for k, d in itertools.product((1, 16, 64), (None, 10)):
        channel_wise, per_position, context = 3 * k + 1, 64 * k + 2 * k + 1, 2 * k * (d or 0)
        assert count(reduction=64 // k, context_features=d) == channel_wise + per_position + context
    assert count() == count(reduction=4)


@pytest.mark.parametrize(("channels", "hidden"), [(1, 1), (3, 1), (2048, 512)])
def test_hidden_width_is_a_quarter(channels, hidden):
    assert SCA(channels).spatial.hidden.weight.shape == (hidden, channels, 1)


def test_initial_values_are_those_of_the_authors():
    torch.manual_seed(0)
    for gate in GATES:
        for name, parameter in SCA(512, 2, context_features=100, gate=gate).named_parameters():
            if name.endswith("bias") or (gate == "identity" and "score" in name):
                assert not parameter.any(), name
            else:
                assert abs(parameter.std() / 0.01 - 1) < 0.15, name
                assert abs(parameter.mean()) < 3 * 0.01 / math.sqrt(parameter.numel()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_context_in_half_precision(dtype):
    module = randomised(SCA(6, context_features=5)).eval()
    x, context = images(2, 6, 5, 4).to(dtype), images(2, 5).to(dtype)
    expected = module(x.float(), context.float())
    for given in (context, context.float(), context.double()):
        output = module(x, given)
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=1e-3)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(module(x.float(), context.float()), expected)


def test_large_logits_do_not_overflow():
    module = randomised(SCA(6, context_features=5)).eval()
    for part in (module.channel, module.spatial):
        part.score.weight.data *= 1e4
    output = module(images(2, 6, 5, 4).float(), 1e4 * images(2, 5).float())
    assert output.isfinite().all()
    assert output.any()


def test_with_a_context_it_is_exported_and_compiled():
    module = randomised(SCA(6, context_features=5)).eval()
    x, context = images(3, 6, 5, 4).float(), images(3, 5).float()
    batch = {0: torch.export.Dim.AUTO}
    program = torch.export.export(module, (x, context), dynamic_shapes=(batch, batch))
    torch.testing.assert_close(program.module()(x[:2], context[:2]), module(x[:2], context[:2]))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, context), module(x, context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"context_features": 0}, "context_features is 0"),
        ({"order": "channel_spatial"}, "unknown order 'channel_spatial'. Did you mean 'channel-spatial'"),
        ({"gate": "sigmoid"}, "unknown gate 'sigmoid'.*scaled.*softmax"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        SCA(**{"channels": 8, **options})


@pytest.mark.parametrize(
    ("features", "context", "message"),
    [
        (
            None,
            torch.zeros(2, 7),
            r"without context_features, .* context \(2, 7\). Make it with the width of the context as",
        ),
        (None, torch.zeros(()), r"without context_features, .* context \(\)"),
        (
            5,
            torch.zeros(2, 7),
            r"context_features=5 .* \(2, 5\) for a map \(2, 6, 5, 4\), but was given \(2, 7\)",
        ),
        (5, torch.zeros(1, 5), r"was given \(1, 5\). Give each image one row of 5 numbers"),
        (5, torch.zeros(2, 5, 1), r"was given \(2, 5, 1\)"),
        (5, torch.zeros(5), r"was given \(5,\)"),
        (5, torch.zeros(2, 5, dtype=torch.int64), r"was given torch.int64. Convert it first"),
        (5, torch.zeros(2, 5, dtype=torch.complex64), "was given torch.complex64"),
        (5, [[0.0] * 5] * 2, "was given list"),
    ],
)
def test_refuses_a_context(features, context, message):
    module = SCA(6, context_features=features)
    for call in (module, module.gate_maps):
        with pytest.raises(UsageError, match=message) as caught:
            call(torch.zeros(2, 6, 5, 4), context)
        assert "\n" not in str(caught.value)


def test_modules_that_take_no_context_say_so():
    with pytest.raises(UsageError, match="unknown se option 'context_features'"):
        create_attention("se", 8, context_features=5)


def test_printing_shows_the_options():
    assert "order='channel-spatial', context_features=5, gate='softmax'" in repr(
        SCA(8, context_features=5, gate="softmax")
    )
