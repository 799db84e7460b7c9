"""CBAM and its two gates against their formulas, from initial values to the largest inputs."""

import copy
import itertools
from typing import get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from torch.func import functional_call

from cbam_lightning.attention import CBAM, ChannelAttention, SpatialAttention, SqueezeExcite
from cbam_lightning.attention.cbam import Arrangement, SpatialPool
from cbam_lightning.attention.gate import GateName
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, assert_survives_large_inputs, images, randomised

ARRANGEMENTS = get_args(Arrangement)
SPATIAL_POOLS = get_args(SpatialPool)
GATES = get_args(GateName)
POOLS = ("avg", "max", "lp", "lse")
POOL_COMBINATIONS = [c for size in range(1, 5) for c in itertools.combinations(POOLS, size)]
RELU_AND_GATE = [(False, "sigmoid"), (True, "sigmoid"), (False, "identity")]
SPATIAL_ARRANGEMENTS = [a for a in ARRANGEMENTS if a != "channel"]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("pools", POOL_COMBINATIONS, ids="+".join)
def test_channel_attention_equals_its_formula(pools, gate):
    module = randomised(ChannelAttention(6, reduction=2, pools=pools, gate=gate).double())
    for shape in [(2, 6, 5, 4), (2, 6, 9), (2, 6, 3, 4, 5)]:
        assert_equals_literal(module, lambda x, w: x * literal.channel_gate(x, w, pools, gate), shape)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("relu", "gate"), RELU_AND_GATE)
@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
def test_spatial_attention_equals_its_formula(spatial_pool, kernel_size, relu, gate, training):
    module = SpatialAttention(6, kernel_size, spatial_pool, relu, gate).double().train(training)
    assert_equals_literal(
        randomised(module),
        lambda x, weights: x * literal.spatial_gate(x, weights, spatial_pool, relu, gate, training),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("relu", "gate"), RELU_AND_GATE)
@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_cbam_equals_its_formula(arrangement, spatial_pool, kernel_size, relu, gate, training):
    module = CBAM(6, 2, ("avg", "max"), kernel_size, arrangement, spatial_pool, relu, gate)
    assert_equals_literal(
        randomised(module.double().train(training)),
        lambda x, weights: literal.cbam(
            x, weights, arrangement, ("avg", "max"), spatial_pool, relu, gate, training
        ),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dims", "shape"), [(1, (2, 6, 9)), (3, (2, 6, 3, 4, 5))])
@pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_cbam_equals_its_formula_in_one_and_three_dimensions(
    arrangement, spatial_pool, dims, shape, training
):
    module = CBAM(6, 2, POOLS, 3, arrangement, spatial_pool, dims=dims)
    assert_equals_literal(
        randomised(module.double().train(training)),
        lambda x, weights: literal.cbam(
            x, weights, arrangement, POOLS, spatial_pool, False, "sigmoid", training
        ),
        shape,
    )


@pytest.mark.parametrize("pools", POOL_COMBINATIONS, ids="+".join)
def test_cbam_hands_its_pools_to_the_channel_half(pools):
    module = randomised(CBAM(6, 2, pools).double())
    assert_equals_literal(
        module,
        lambda x, weights: literal.cbam(
            x, weights, "channel-spatial", pools, "avg+max", False, "sigmoid", True
        ),
    )


def test_cbam_gives_the_stored_numbers():
    module = CBAM(2, reduction=2, kernel_size=3).double().eval()
    values = {
        "channel.mlp.0.weight": [[0.5, -0.25]],
        "channel.mlp.0.bias": [0.1],
        "channel.mlp.2.weight": [[1.0], [-0.5]],
        "channel.mlp.2.bias": [0.2, -0.1],
        "spatial.conv.weight": [
            [[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]]
        ],
        "spatial.bn.weight": [2.0],
        "spatial.bn.bias": [-0.5],
        "spatial.bn.running_mean": [0.3],
        "spatial.bn.running_var": [1.7],
        "spatial.bn.num_batches_tracked": 0,
    }
    module.load_state_dict({name: torch.tensor(v, dtype=torch.float64) for name, v in values.items()})
    x = torch.tensor([[[[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], [[2.0, 0.25, -0.75], [1.5, -0.5, 1.0]]]])
    expected = [
        [
            [
                [0.7940309607170303, -1.2938834479407408, 0.39659479477820664],
                [0.0, 0.8679266979248762, -0.16147906326524541],
            ],
            [
                [0.598110434865736, 0.06091428026737272, -0.2240537493866197],
                [0.462373859840336, -0.05448108453464826, 0.06081772470438138],
            ],
        ]
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(module(x.double()), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_gradients_pass_gradcheck(arrangement, training):
    module = CBAM(4, 2, POOLS, 3, arrangement, spatial_relu=True).double().train(training)
    parameters = dict(randomised(module).named_parameters())

    def function(x, *values):
        return functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    x = images(2, 4, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_output_is_the_input_times_the_gate_map(arrangement):
    module = randomised(CBAM(6, 2, arrangement=arrangement).double()).eval()
    x = images(2, 6, 5, 4)
    gate = module.gate_map(x)
    torch.testing.assert_close(module(x), x * gate)
    assert gate.shape == {"channel": (2, 6, 1, 1), "spatial": (2, 1, 5, 4)}.get(arrangement, x.shape)


def test_training_moves_the_running_statistics_by_a_hundredth():
    module = randomised(SpatialAttention(6, kernel_size=3).double())
    before = copy.deepcopy(module.state_dict())
    x = images(2, 6, 5, 4)
    module(x)
    maps = torch.stack([x.max(dim=1).values, x.mean(1)], dim=1)
    z = literal.convolve(maps, module.conv.weight[0])
    for name, fresh in {"running_mean": z.mean(), "running_var": z.var(correction=1)}.items():
        expected = 0.99 * before[f"bn.{name}"] + 0.01 * fresh
        torch.testing.assert_close(getattr(module.bn, name), expected)


class TestInitialValues:
    def test_are_the_authors(self):
        module = CBAM(512, reduction=2, spatial_pool="conv1x1")
        assert torch.equal(module.spatial.bn.weight, torch.zeros(1))
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                assert torch.equal(parameter, torch.zeros_like(parameter)), name
        for linear, fan_in in [(module.channel.mlp[0], 512), (module.channel.mlp[2], 256)]:
            bound = fan_in**-0.5  # torch's default is uniform
            assert 0.99 * bound < linear.weight.abs().max() <= bound

    def test_convolutions_are_kaiming_normal_in_fan_out(self):
        torch.manual_seed(0)
        weights = torch.stack([SpatialAttention(4, 7).conv.weight for _ in range(100)])
        assert weights.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.03)
        reduce = SpatialAttention(5000, 7, "conv1x1").reduce.weight
        assert reduce.std().item() == pytest.approx(2**0.5, rel=0.03)

    def test_gate_is_constantly_one_half_in_space(self):
        x = images(2, 6, 5, 4, dtype=torch.float32)
        assert torch.equal(SpatialAttention(6).gate_map(x), torch.full((2, 1, 5, 4), 0.5))

    def test_weight_behind_the_relu_receives_a_gradient(self):
        module = SpatialAttention(6, relu=True)
        assert torch.equal(module.bn.weight, torch.ones(1))
        module(images(2, 6, 5, 4, dtype=torch.float32)).sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())

    @pytest.mark.parametrize("channels", [1, 8, 15, 16, 40])
    def test_hidden_layer_has_a_unit_even_with_few_channels(self, channels):
        assert ChannelAttention(channels, 16).mlp[0].out_features == max(1, channels // 16)


class TestIdentityGate:
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
    @pytest.mark.parametrize("arrangement", ARRANGEMENTS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_returns_its_input_bit_for_bit(self, arrangement, spatial_pool, training, dtype):
        options = {"pools": POOLS, "arrangement": arrangement, "spatial_pool": spatial_pool}
        module = CBAM(6, gate="identity", **options).train(training)
        x = 100 * images(2, 6, 5, 4).to(dtype)
        assert torch.equal(module(x), x)

    @pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
    @pytest.mark.parametrize("arrangement", ARRANGEMENTS)
    def test_learns(self, arrangement, spatial_pool):
        torch.manual_seed(0)
        options = {"reduction": 2, "arrangement": arrangement, "spatial_pool": spatial_pool}
        module = CBAM(8, gate="identity", **options).double()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        x = images(2, 8, 5, 4)
        for _ in range(2):
            optimizer.zero_grad()
            (module(x) ** 2).mean().backward()
            optimizer.step()
            assert not torch.equal(module(x), x)
        for name, parameter in module.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("pools", POOL_COMBINATIONS, ids="+".join)
    def test_no_channel_pool_overflows(self, pools, dtype):
        assert_survives_large_inputs(ChannelAttention(8, 2, pools), dtype)
        assert_survives_large_inputs(randomised(ChannelAttention(8, 2, pools, gate="identity")), dtype)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize(("relu", "gate"), RELU_AND_GATE)
    @pytest.mark.parametrize("spatial_pool", SPATIAL_POOLS)
    @pytest.mark.parametrize("arrangement", SPATIAL_ARRANGEMENTS)
    def test_no_arrangement_overflows(self, arrangement, spatial_pool, relu, gate, training, dtype):
        module = CBAM(8, 2, POOLS, 7, arrangement, spatial_pool, relu, gate).train(training)
        assert_survives_large_inputs(module, dtype)
        assert_survives_large_inputs(randomised(module), dtype)


def test_is_made_from_the_values_of_a_yaml_file():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CBAM, "cbam")
    config = parser.parse_string("cbam: {channels: 8, pools: [avg, lse], gate: identity, kernel_size: 3}")
    module = parser.instantiate(config).cbam
    assert module.channel.pools == ("avg", "lse")
    assert module.spatial.conv.kernel_size == (3, 3)


def test_state_dict_keys():
    anchors = [f"channel.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    spatial = ["spatial.conv.weight", "spatial.bn.weight", "spatial.bn.bias"]
    spatial += ["spatial.bn.running_mean", "spatial.bn.running_var", "spatial.bn.num_batches_tracked"]
    assert list(CBAM(8).state_dict()) == anchors + spatial
    assert list(CBAM(8, arrangement="channel").state_dict()) == anchors
    assert list(CBAM(8, arrangement="spatial").state_dict()) == spatial
    assert set(CBAM(8, spatial_pool="conv1x1").state_dict()) == {*anchors, *spatial, "spatial.reduce.weight"}


def test_printing_shows_the_options():
    text = repr(CBAM(8, pools=["lse"], arrangement="parallel", spatial_pool="conv1x1", gate="identity"))
    for option in ("('lse',)", "'parallel'", "'conv1x1'", "'identity'"):
        assert option in text


@pytest.mark.parametrize(
    ("module_class", "options", "message"),
    [
        (CBAM, {"channels": 0}, "channels is 0; give a whole number of at least 1"),
        (SpatialAttention, {"channels": -2}, "channels is -2"),
        (CBAM, {"reduction": 0}, "reduction is 0"),
        (CBAM, {"reduction": "8"}, "reduction is '8'"),
        (CBAM, {"pools": ()}, "one or more of avg, max, lp, lse"),
        (CBAM, {"pools": "avg"}, "give a list"),
        (CBAM, {"pools": ["avg", "avg"]}, "at most once"),
        (CBAM, {"pools": ["avg", "maxx"]}, "unknown pool 'maxx'. Did you mean 'max'"),
        (CBAM, {"kernel_size": 4}, "kernel_size is 4, which has no centre; give an odd number"),
        (CBAM, {"kernel_size": -1}, "kernel_size is -1"),
        (CBAM, {"arrangement": "channel-spacial"}, "unknown arrangement .* Did you mean 'channel-spatial'"),
        (CBAM, {"spatial_pool": "max"}, "unknown spatial_pool 'max'"),
        (
            CBAM,
            {"dims": 4},
            r"dims is 4; .* 1 for \(N, C, L\), 2 for \(N, C, H, W\), 3 for \(N, C, D, H, W\)",
        ),
        (CBAM, {"arrangement": "channel", "dims": "2"}, "dims is '2'"),
        (CBAM, {"gate": "tanh"}, "unknown gate 'tanh'. Allowed: identity, sigmoid"),
        (SqueezeExcite, {"gate": 3}, "unknown gate '3'"),
        (CBAM, {"gate": "identity", "spatial_relu": True}, "Turn the ReLU off, or use gate 'sigmoid'"),
    ],
)
def test_refuses(module_class, options, message):
    with pytest.raises(UsageError, match=message):
        module_class(**{"channels": 8, **options})
