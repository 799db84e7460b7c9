"""How much attention each position receives, from the weights that self-attention computes."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from cbam_lightning.attention import create_attention, received_attention
from tests.attention.checks import images, randomised

pytestmark = pytest.mark.parametrize(("name", "options"), [("sagan", {}), ("mhsa", {"heads": 2})])


def attention_weights(module, x):
    """Return the weights of the forward pass, (N, L queries, L keys): what becomes of an identity matrix."""
    n, length = len(x), math.prod(x.shape[2:])
    weights = torch.empty(n, length, length, dtype=x.dtype)
    attend = torch.nn.functional.scaled_dot_product_attention

    def attend_to_positions(query, key, value, scale):
        identity = torch.eye(length, dtype=x.dtype).expand(*key.shape[:2], length, length)
        weights.copy_(attend(query, key, identity, scale=scale).mean(1))
        return attend(query, key, value, scale=scale)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend_to_positions)
        module(x)
    return weights


@pytest.mark.parametrize("at_a_time", [1, 2 * 2 * 20 * 3, 2**24])
@pytest.mark.parametrize("sizes", [(20,), (5, 4), (5, 2, 2)])
def test_is_the_mean_weight_of_a_position_times_positions(name, options, at_a_time, sizes, monkeypatch):
    monkeypatch.setattr(received_attention, "_MAX_WEIGHTS", at_a_time)
    options = options | ({"dims": len(sizes)} if name == "mhsa" else {})
    module, x = randomised(create_attention(name, 6, **options)).double(), images(2, 6, *sizes)
    maps = module.gate_maps(x)
    assert list(maps) == ["attention"]
    assert maps["attention"].shape == (2, 1, *sizes)
    found = maps["attention"].flatten(1)
    torch.testing.assert_close(found, 20 * attention_weights(module, x).mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.mean(1), torch.ones(2).double())


def test_is_1_everywhere_where_no_position_stands_out(name, options):
    maps = create_attention(name, 6, **options).gate_maps(torch.zeros(2, 6, 5, 4))
    torch.testing.assert_close(maps["attention"], torch.ones(2, 1, 5, 4))


class Largest(TorchDispatchMode):
    """Record the number of entries of the largest tensor."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.entries = max(self.entries, *(tensor.numel() for tensor in pytree.tree_leaves(result)))
        return result


def test_takes_little_memory(name, options, monkeypatch):
    monkeypatch.setattr(received_attention, "_MAX_WEIGHTS", 2**16)
    module, x = create_attention(name, 8, **options), images(2, 8, 48, 48).float()
    with torch.no_grad(), Largest() as largest:
        module.gate_maps(x)
    assert 2**16 / 2 < largest.entries < 2 * (48 * 48) ** 2 / 4  # a quarter of the weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_at_least_float32(name, options, dtype):
    module, x = randomised(create_attention(name, 8, **options)), images(2, 8, 5, 4).to(dtype)
    expected = module.gate_maps(x.float())["attention"]
    with torch.autocast("cpu", dtype=dtype):
        inside = module.gate_maps(x)["attention"]
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)
    assert module.to(dtype).gate_maps(x)["attention"].dtype == torch.float32


def test_an_empty_batch_has_empty_maps(name, options):
    assert create_attention(name, 8, **options).gate_maps(torch.empty(0, 8, 5, 4))["attention"].shape == (
        0,
        1,
        5,
        4,
    )
