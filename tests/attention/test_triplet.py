"""Triplet attention against its formula."""

import pytest
import torch

from cbam_lightning.attention import CBAM, TripletAttention
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = {1: (3, 6, 9), 2: (3, 6, 5, 4), 3: (3, 5, 3, 4, 2)}


def triplet(x, weights, spatial, gate, training):
    """Gate one axis after the other, with the permutations of the authors' code, and average."""
    gated = []
    for number, axis in enumerate(range(1 if spatial else 2, x.ndim)):
        order = list(range(x.ndim))
        order[1], order[axis] = order[axis], order[1]
        turned = x.permute(order)
        maps = torch.stack([turned.max(dim=1).values, turned.sum(1) / turned.shape[1]], dim=1)
        logits = literal.convolve(maps, weights[f"branches.{number}.conv.weight"][0])[:, None]
        logits = literal.normalise_layer(logits, weights, f"branches.{number}.bn", training)
        gated.append((turned * literal.sigmoid(logits, gate)).permute(order))
    return sum(gated) / len(gated)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize(("dims", "kernel_size"), [(1, 7), (1, 3), (2, 7), (2, 3), (2, 1), (3, 3)])
def test_equals_its_formula(dims, kernel_size, spatial, gate, training):
    module = TripletAttention(6, kernel_size, spatial, dims, gate).double().train(training)
    assert_equals_literal(
        randomised(module), lambda x, weights: triplet(x, weights, spatial, gate, training), SHAPES[dims]
    )


def test_equals_its_formula_with_the_published_kernel_in_three_dimensions():
    module, x = randomised(TripletAttention(5, dims=3).double().eval()), images(*SHAPES[3])
    expected = triplet(x, module.state_dict(), True, "sigmoid", training=False)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_the_branch_over_the_channels_is_the_spatial_gate_of_cbam():
    ours, theirs = randomised(TripletAttention(6).eval()), CBAM(6).eval().spatial
    theirs.load_state_dict(ours.branches[0].state_dict())
    x = images(2, 6, 5, 4).float()
    torch.testing.assert_close(ours.parts(x)[0], theirs.gate_map(x))


@pytest.mark.parametrize("dims", SHAPES)
def test_gate_map_is_what_the_input_is_multiplied_with(dims):
    module, x = randomised(TripletAttention(6, dims=dims).double()).eval(), images(*SHAPES[dims])
    gate = module.gate_maps(x)["both"]
    assert gate.shape == x.shape
    assert 0 < gate.min() < gate.max() < 1
    assert torch.equal(module(x), x * gate)


def test_each_branch_is_constant_along_its_axis():
    gates = randomised(TripletAttention(6)).parts(images(2, 6, 5, 4).float())
    assert [gate.shape for gate in gates] == [(2, 1, 5, 4), (2, 6, 1, 4), (2, 6, 5, 1)]


def test_elements_that_equal_the_maximum_share_its_gradient():
    module = randomised(TripletAttention(6).double()).eval()
    x = images(2, 6, 5, 4)
    x[:] = x[:, :1]
    x.requires_grad_()
    module.parts(x)[0].sum().backward()
    torch.testing.assert_close(x.grad, x.grad[:, :1].expand_as(x))


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 3, 1, 2), (2, 2, 3, 1)], ids=str)
def test_maps_smaller_than_the_kernel_are_padded(shape):
    module, x = randomised(TripletAttention(shape[1]).double()), images(*shape)
    expected = triplet(x, module.state_dict(), True, "sigmoid", training=True)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("spatial", "kernel_size"), [(True, 7), (False, 7), (True, 3)])
def test_number_of_parameters(dims, spatial, kernel_size):
    module = TripletAttention(64, kernel_size, spatial, dims)
    expected = (dims + spatial) * (2 * kernel_size**dims + 2)
    assert sum(p.numel() for p in module.parameters()) == expected


def test_it_starts_as_in_the_authors_resnet():
    torch.manual_seed(0)
    modules = [TripletAttention(8) for _ in range(20)]
    weights = torch.cat([branch.conv.weight.detach() for module in modules for branch in module.branches])
    assert float(weights.std()) == pytest.approx((2 / 7**2) ** 0.5, rel=0.05)
    assert [branch.bn.weight.tolist() for branch in modules[0].branches] == [[0], [1], [1]]
    assert [branch.bn.momentum for branch in modules[0].branches] == [0.01] * 3
    assert (modules[0].parts(images(2, 8, 5, 4).float())[0] == 0.5).all()
    identity = TripletAttention(8, gate="identity")
    assert not any(branch.bn.weight for branch in identity.branches)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 1, 1, 5), (1, 1, 5, 1)], ids=str)
def test_a_single_value_is_refused_in_training_alone(shape):
    module, x = TripletAttention(shape[1]), torch.ones(shape)
    with pytest.raises(UsageError, match=r"TripletAttention was given \(1, .* in training, .* two\. Use"):
        module(x)
    assert module.eval()(x).shape == x.shape
    module.train()
    assert module(torch.cat([x, x])).shape == (2, *shape[1:])
    for branch in module.branches:  # as in fine-tuning with frozen statistics
        branch.bn.eval()
    assert module(x).shape == x.shape


def test_printing_shows_the_options():
    assert "gate='identity'" in repr(TripletAttention(8, gate="identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4, which has no centre; give an odd number"),
        ({"spatial": "no"}, "spatial is 'no'; give true or false"),
        ({"dims": 0}, "dims is 0"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        TripletAttention(**{"channels": 8, **options})
