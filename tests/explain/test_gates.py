"""Recorded gates, compared with the factors that the modules apply."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree

from cbam_lightning.attention import create_attention, received_attention
from cbam_lightning.explain import record_gates
from cbam_lightning.explain.gates import gated_modules
from cbam_lightning.models import create_model
from cbam_lightning.models.insertion import insert_attention
from tests.attention.checks import images, randomised
from tests.attention.test_every_module import OperationNames
from tests.explain.test_gradcam import assert_same_state, small_resnet, state

ARRANGEMENTS = ["channel-spatial", "spatial-channel", "parallel", "channel", "spatial"]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_are_the_factors_of_the_output(arrangement):
    module = randomised(create_attention("cbam", 6, reduction=2, arrangement=arrangement)).double()
    x = images(2, 6, 5, 4)
    with record_gates(module) as found:
        output = module(x)
    (gates,) = found
    product = torch.ones_like(x)
    if gates.channel is not None:
        product = product * gates.channel[:, :, None, None]
    if gates.spatial is not None:
        product = product * gates.spatial[:, None]
    torch.testing.assert_close(output, x * product)
    assert (gates.channel is None) == (arrangement == "spatial")
    assert (gates.spatial is None) == (arrangement == "channel")


@pytest.mark.parametrize("name", ["se", "eca"])
def test_of_channels_alone(name):
    module = randomised(create_attention(name, 6)).double()
    x = images(2, 6, 5, 4)
    with record_gates(module) as found:
        output = module(x)
    assert found[0].spatial is None
    torch.testing.assert_close(output, x * found[0].channel[:, :, None, None])


def test_of_bam_are_the_means_over_either():
    module = randomised(create_attention("bam", 8, reduction=2)).double()
    x = images(2, 8, 5, 4)
    with record_gates(module) as found:
        factor = module(x) / x
    torch.testing.assert_close(found[0].channel, factor.mean((2, 3)))
    torch.testing.assert_close(found[0].spatial, factor.mean(1))


def attention_weights(module, x):
    """Let the module attend to its values one position at a time: the weights, (N, L queries, L keys)."""
    n, _, *sizes = x.shape
    length = math.prod(sizes)
    weights = torch.empty(n, length, length, dtype=x.dtype)
    original = torch.nn.functional.scaled_dot_product_attention

    def attend(query, key, value, scale):
        eye = torch.eye(length, dtype=x.dtype).expand(*key.shape[:2], length, length)
        weights.copy_(original(query, key, eye, scale=scale).mean(1))
        return original(query, key, value, scale=scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        module(x)
    return weights


SELF_ATTENTION = pytest.mark.parametrize(("name", "options"), [("sagan", {}), ("mhsa", {"heads": 2})])


@SELF_ATTENTION
@pytest.mark.parametrize("at_a_time", [1, 2 * 2 * 20 * 3, 2**24])
@pytest.mark.parametrize("sizes", [(20,), (5, 4), (5, 2, 2)])
def test_of_self_attention_are_what_each_position_receives(name, options, at_a_time, sizes, monkeypatch):
    monkeypatch.setattr(received_attention, "_MAX_WEIGHTS", at_a_time)
    options = options | ({"dims": len(sizes)} if name == "mhsa" else {})
    module, x = randomised(create_attention(name, 6, **options)).double(), images(2, 6, *sizes)
    with record_gates(module) as found:
        module(x)
    (gates,) = found
    assert (gates.channel, gates.spatial) == (None, None)
    assert list(gates.maps) == ["attention"]
    expected = 20 * attention_weights(module, x).mean(1)
    torch.testing.assert_close(gates.attention.flatten(1), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gates.attention.flatten(1).mean(1), torch.ones(2).double())
    assert gates.attention.shape == (2, *sizes)
    assert torch.equal(gates.of_image(1).attention, gates.attention[1].float())


@SELF_ATTENTION
def test_of_self_attention_take_little_memory(name, options, monkeypatch):
    class Largest(OperationNames):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            Largest.entries = max(Largest.entries, *(t.numel() for t in pytree.tree_leaves(result)))
            return result

    monkeypatch.setattr(received_attention, "_MAX_WEIGHTS", 2**16)
    module, x = create_attention(name, 8, **options), images(2, 8, 48, 48).float()
    with torch.no_grad(), Largest():
        module.gate_maps(x)
    assert 2**16 / 2 < Largest.entries < 2 * (48 * 48) ** 2 / 4  # the weights of two images


@SELF_ATTENTION
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_of_self_attention_are_at_least_float32(name, options, dtype):
    module, x = randomised(create_attention(name, 8, **options)), images(2, 8, 5, 4).to(dtype)
    expected = module.gate_maps(x.float())["attention"]
    with torch.autocast("cpu", dtype=dtype):
        inside = module.gate_maps(x)["attention"]
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)
    assert module.to(dtype).gate_maps(x)["attention"].dtype == torch.float32


def test_depend_on_the_context_that_the_module_was_given():
    module, x = randomised(create_attention("sca", 6, context_features=5)).double(), images(2, 6, 5, 4)
    with record_gates(module) as found:
        outputs = [module(x, images(2, 5)), module(x, context=images(2, 5)), module(x)]
    for gates, output in zip(found, outputs, strict=True):
        product = gates.channel[:, :, None, None] * gates.spatial[:, None]
        torch.testing.assert_close(output, x * product)
    assert not torch.allclose(found[0].spatial, found[2].spatial)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_come_block_by_block_whatever_the_implementation(implementation):
    torch.manual_seed(0)
    network = create_model(
        "resnet20",
        attention="cbam",
        attention_options={"implementation": implementation},
        num_classes=5,
        widths=(4, 8, 8),
        depths=(1, 2, 1),
        stem_width=4,
    )
    network.train()
    before = state(network)
    x = images(3, 3, 24, 40, dtype=torch.float32)
    with record_gates(network) as found, torch.no_grad():
        network(x)
    assert_same_state(network, before)
    names = ["layer1.0", "layer2.0", "layer2.1", "layer3.0"]
    assert [gates.module for gates in found] == [f"{name}.attention" for name in names]
    assert [tuple(gates.channel.shape) for gates in found] == [(3, 4), (3, 8), (3, 8), (3, 8)]
    assert [tuple(gates.spatial.shape[1:]) for gates in found] == [(24, 40), (12, 20), (12, 20), (6, 10)]
    assert all(torch.equal(gates.spatial, torch.full_like(gates.spatial, 0.5)) for gates in found)


def test_hooks_are_gone_after_an_exception():
    network = small_resnet()
    before = state(network)
    with pytest.raises(KeyError), record_gates(network):
        raise KeyError
    assert_same_state(network, before)


def test_inserted_attention_is_found_and_a_plain_network_has_none():
    network = create_model("timm/resnet18", num_classes=3)
    assert gated_modules(network) == {}
    insert_attention(network, "cbam")
    with record_gates(network) as found, torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert len(found) == 8
    assert all(torch.equal(gates.channel, torch.ones_like(gates.channel)) for gates in found)
