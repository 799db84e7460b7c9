"""BAM against its formula."""

import pytest
import torch

from cbam_lightning.attention import BAM
from cbam_lightning.attention.registry import default_placement
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = {1: (3, 6, 9), 2: (3, 6, 5, 4), 3: (3, 6, 3, 4, 2)}
# A BatchNorm in training removes what is added before it.
BEFORE_BATCH_NORM = ("channel.fc1.bias", "spatial.reduce.bias", "spatial.conv1.bias", "spatial.conv2.bias")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(dims, dilation, variant, gate, training):
    module = BAM(6, 2, dilation, variant, dims, gate).double().train(training)
    assert_equals_literal(
        randomised(module),
        lambda x, weights: literal.bam(x, weights, variant, dilation, gate, training),
        SHAPES[dims],
        BEFORE_BATCH_NORM if training else (),
    )


def test_equals_its_formula_with_the_published_options():
    module = randomised(BAM(32).double().eval())
    assert module.spatial.conv1.dilation == module.spatial.conv2.padding == (4, 4)
    assert module.channel.fc1.out_features == module.spatial.reduce.out_channels == 2
    x = images(2, 32, 10, 9)
    expected = literal.bam(x, module.state_dict(), "official", 4, "sigmoid", training=False)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_gate_map_is_what_the_input_is_multiplied_with(variant):
    module = randomised(BAM(6, 2, variant=variant).double()).eval()
    x = images(2, 6, 5, 4)
    gate = module.gate_map(x)
    assert gate.shape == x.shape
    assert 1 < gate.min() < gate.max() < 2
    assert torch.equal(module(x), x * gate)


@pytest.mark.parametrize(("variant", "zeros"), [("official", ["fc2"]), ("paper", ["fc2", "final"])])
def test_identity_gate_starts_with_as_few_zeros_as_it_can(variant, zeros):
    module = BAM(32, variant=variant, gate="identity")
    ends = {"fc2": module.channel.fc2, "final": module.spatial.final}
    for name, layer in ends.items():
        assert (layer.weight == 0).all() == (name in zeros)
        assert not layer.bias.any()


def test_training_moves_the_running_statistics():
    module = BAM(6, 2).double()
    x = images(4, 6, 5, 4)
    module(x)
    z = x.mean((2, 3)) @ module.channel.fc1.weight.T + module.channel.fc1.bias
    torch.testing.assert_close(module.channel.bn.running_mean, 0.1 * z.mean(0))
    torch.testing.assert_close(module.channel.bn.running_var, 0.9 + 0.1 * z.var(0))


def test_a_batch_of_one_is_refused_in_training_alone():
    module, x = BAM(8), images(1, 8, 5, 4, dtype=torch.float32)
    with pytest.raises(
        UsageError, match=r"BAM was given \(1, 8, 5, 4\) in training, .* needs two. Use a larger batch"
    ):
        module(x)
    assert module.eval()(x).shape == x.shape
    module.train().channel.bn.eval()  # as in fine-tuning with frozen statistics
    assert module(x).shape == x.shape


def test_state_dict_keys():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layer = ("weight", "bias")
    kinds = {"channel.fc1": layer, "channel.bn": norm, "channel.fc2": layer}
    for number in ("reduce", "conv1", "conv2"):
        kinds[f"spatial.{number}"] = layer
        kinds[f"spatial.{number.replace('conv', 'bn').replace('reduce', 'reduce_bn')}"] = norm
    kinds["spatial.final"] = layer
    assert list(BAM(32).state_dict()) == [f"{name}.{kind}" for name in kinds for kind in kinds[name]]


def test_printing_shows_the_options():
    text = repr(BAM(8, variant="paper", gate="identity"))
    assert "variant='paper', gate='identity'" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"reduction": 0}, "reduction is 0"),
        ({"dilation": 1.5}, "dilation is 1.5"),
        ({"variant": "papers"}, "unknown variant 'papers'. Did you mean 'paper'"),
        ({"dims": 0}, "dims is 0"),
        ({"gate": "relu"}, "unknown gate 'relu'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        BAM(**{"channels": 8, **options})


def test_it_starts_as_in_the_authors_networks():
    torch.manual_seed(0)
    module = BAM(512, reduction=4)
    for name, parameter in module.named_parameters():
        layer = module.get_submodule(name.rpartition(".")[0])
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif isinstance(layer, torch.nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            expected = (2 / fan_out) ** 0.5
            assert abs(parameter.std() / expected - 1) < 0.1, name
            assert abs(parameter.mean()) < 0.15 * expected, name
        elif isinstance(layer, torch.nn.Linear):
            bound = layer.in_features**-0.5
            assert 0.95 * bound < parameter.abs().max() <= bound, name
        else:
            assert torch.equal(parameter, torch.ones_like(parameter)), name


def test_usually_comes_after_stages():
    assert default_placement("bam") == "stage"
