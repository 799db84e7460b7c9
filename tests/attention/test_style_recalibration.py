"""SRM against its formula."""

import pytest
import torch
from torch import nn

from cbam_lightning.attention import SRM
from cbam_lightning.errors import UsageError
from cbam_lightning.models.sync_batch_norm import synchronise_batch_norm
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, assert_survives_large_inputs, images, randomised

SHAPES = [(3, 6, 9), (3, 6, 5, 4), (3, 6, 3, 4, 2)]
MODE = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def formula(x, weights, gate, training):
    logits = torch.zeros(x.shape[:2], dtype=x.dtype)
    for n, image in enumerate(x):
        for c, plane in enumerate(image):
            mean = plane.sum() / plane.numel()
            deviation = (((plane - mean) ** 2).sum() / (plane.numel() - 1)).sqrt()
            logits[n, c] = weights["cfc"][c, 0] * mean + weights["cfc"][c, 1] * deviation
    gates = literal.sigmoid(literal.normalise_layer(logits, weights, "bn", training), gate)
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@MODE
def test_equals_its_formula(training, gate, shape):
    module = randomised(SRM(6, gate).double().train(training))
    assert_equals_literal(module, lambda x, weights: formula(x, weights, gate, training), shape)


@MODE
@pytest.mark.parametrize("shape", [(3, 6, 1), (3, 6, 1, 1), (3, 6, 1, 1, 1)], ids=len)
def test_a_single_position_has_no_deviation(shape, training):
    module, x = randomised(SRM(6).double().train(training)), images(*shape).requires_grad_()
    weights = module.state_dict()
    logits = literal.normalise_layer(weights["cfc"][:, 0] * x.flatten(1), weights, "bn", training)
    torch.testing.assert_close(module(x), x * literal.sigmoid(logits, "sigmoid").reshape(shape))
    module(x).sum().backward()
    assert x.grad.isfinite().all()
    assert module.cfc.grad[:, 0].all()
    assert not module.cfc.grad[:, 1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_constant_map_has_finite_gradients(dtype):
    module, x = randomised(SRM(6)), torch.full((2, 6, 5, 4), 3.0, dtype=dtype, requires_grad=True)
    module(x).sum().backward()
    assert all(values.grad.isfinite().all() for values in (x, *module.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_deviation_of_large_values_is_exact(dtype):
    x = torch.full((2, 3, 8, 8), 1e4, dtype=dtype)
    x[..., ::2] *= -1
    module = randomised(SRM(3)).eval()
    torch.testing.assert_close(module.gate_map(x), module.gate_map(x.double()).float())
    assert_survives_large_inputs(randomised(SRM(8)), dtype)


def test_another_number_of_channels_is_refused():
    """A single channel would be broadcast to all."""
    with pytest.raises(UsageError, match=r"SRM was made for 6 channels, but was given \(2, 1, 5, 4\)"):
        SRM(6)(images(2, 1, 5, 4, dtype=torch.float32))


def test_a_batch_of_one_in_training_is_refused():
    module, x = SRM(6), images(1, 6, 5, 4, dtype=torch.float32)
    with pytest.raises(
        UsageError,
        match=r"SRM was given \(1, 6, 5, 4\) in training, .* needs two\. Use a larger batch",
    ):
        module(x)
    assert module.eval()(x).shape == x.shape
    module.train().bn.eval()  # as in fine-tuning with frozen statistics
    assert module(x).shape == x.shape


def test_a_synchronised_batch_norm_counts_the_images_itself():
    module = synchronise_batch_norm(SRM(6))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module(images(1, 6, 5, 4, dtype=torch.float32))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(SRM(6)).bn, nn.SyncBatchNorm)


def test_has_four_parameters_a_channel():
    sizes = {name: tuple(p.shape) for name, p in SRM(32).named_parameters()}
    assert sizes == {"cfc": (32, 2), "bn.weight": (32,), "bn.bias": (32,)}


@MODE
def test_it_starts_at_a_constant_half(training):
    module, x = SRM(6).train(training), images(3, 6, 5, 4, dtype=torch.float32)
    assert torch.equal(module.gate_map(x), torch.full((3, 6, 1, 1), 0.5))
    assert not module.cfc.any()
    assert (module.bn.weight == 1).all()


def test_the_first_step_from_the_identity_is_a_small_one():
    torch.manual_seed(0)
    module, x = SRM(64, "identity"), images(8, 64, 5, 4, dtype=torch.float32)
    assert abs(module.cfc.std() - 0.5**0.5) < 0.1
    assert not module.bn.weight.any()
    module(x).square().mean().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert 0 < (module(x) - x).abs().max() < 0.01


def test_training_moves_the_running_statistics():
    module = randomised(SRM(6))
    before = module.bn.running_mean.clone()
    module(images(3, 6, 5, 4, dtype=torch.float32))
    assert (module.bn.running_mean != before).all()


def test_gate_map_is_what_the_input_is_multiplied_with():
    module, x = randomised(SRM(6).double()).eval(), images(2, 6, 5, 4)
    assert module.gate_maps(x).keys() == {"channel"}
    assert module.gate_map(x).shape == (2, 6, 1, 1)
    assert torch.equal(module(x), x * module.gate_map(x))


def test_printing_shows_the_options():
    assert "gate='identity'" in repr(SRM(8, "identity"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": -1}, "channels is -1; give a whole number of at least 1"),
        ({"gate": "hard_sigmoid"}, "unknown gate 'hard_sigmoid'.*Allowed: identity, sigmoid"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        SRM(**{"channels": 8, **options})
