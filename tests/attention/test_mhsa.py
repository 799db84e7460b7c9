"""Multi-head self-attention with relative positions against its formula, and against timm's."""

import itertools
import math

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cbam_lightning.attention import MHSA
from cbam_lightning.errors import UsageError
from tests.attention.checks import assert_equals_literal, images, randomised

SHAPES = {1: (2, 6, 7), 2: (2, 6, 3, 4), 3: (2, 6, 2, 3, 2)}
AXES = ("depth", "height", "width")


def literal(x, weights, heads):
    """Compute every logit by itself, from the places of the query and the key."""
    sizes, width = x.shape[2:], x.shape[1] // heads
    tables = [weights[f"relative_{axis}"] for axis in AXES[-len(sizes) :]]
    places = list(itertools.product(*map(range, sizes)))
    attended = []
    for image in x:
        projected = [weights["qkv.weight"][:, :, 0] @ image[:, *place] for place in places]
        # Of each place, (query, key, value) x heads x width
        parts = [values.reshape(3, heads, width) for values in projected]
        columns = []
        for origin, (queries, _, _) in zip(places, parts, strict=True):
            seen = []
            for head, query in enumerate(queries):
                powers = []
                for place, (_, keys, _) in zip(places, parts, strict=True):
                    key = keys[head]
                    for table, to, start in zip(tables, place, origin, strict=True):
                        key = key + table[len(table) // 2 + to - start]
                    powers.append(torch.exp((query * key).sum() / math.sqrt(width)))
                values = [power * part[2, head] for power, part in zip(powers, parts, strict=True)]
                seen.append(sum(values) / sum(powers))
            columns.append(torch.cat(seen))
        attended.append(torch.stack(columns, dim=1).reshape(image.shape))
    return x + weights["gamma"] * torch.stack(attended)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dims", SHAPES)
def test_equals_its_formula(dims, heads, training):
    size = max(SHAPES[dims][2:])
    module = randomised(MHSA(6, heads, size, dims).double()).train(training)
    assert_equals_literal(module, lambda x, weights: literal(x, weights, heads), SHAPES[dims])


@pytest.mark.parametrize("dims", SHAPES)
def test_smaller_maps_use_the_middle_of_the_table(dims):
    module, x = randomised(MHSA(6, 2, 9, dims).double()), images(*SHAPES[dims])
    torch.testing.assert_close(module(x), literal(x, module.state_dict(), 2), rtol=1e-12, atol=1e-12)
    largest = max(x.shape[2:])
    module(x).sum().backward()
    used = [getattr(module, f"relative_{axis}").grad.any(1) for axis in AXES[-dims:]]
    for rows, size in zip(used, x.shape[2:], strict=True):
        assert rows.nonzero()[:, 0].tolist() == list(range(9 - size, 9 + size - 1))
    small, state = MHSA(6, 2, largest, dims).double(), module.state_dict()
    for axis in AXES[-dims:]:
        state[f"relative_{axis}"] = state[f"relative_{axis}"][9 - largest : 9 + largest - 1]
    small.load_state_dict(state)
    assert torch.equal(small(x), module(x))


@pytest.mark.parametrize("size", [(5, 5), (5, 7), (7, 2), (1, 4), (1, 1)])
def test_equals_timm(size):
    module = randomised(MHSA(32, 4, 8)).double()
    torch.nn.init.ones_(module.gamma)
    theirs = BottleneckAttn(32, feat_size=size, scale_pos_embed=True).double()
    tables = {"height": theirs.pos_embed.height_rel, "width": theirs.pos_embed.width_rel}
    with torch.no_grad():
        theirs.qkv.weight.copy_(module.qkv.weight[..., None])
        for (axis, table), side in zip(tables.items(), size, strict=True):
            table.copy_(getattr(module, f"relative_{axis}")[8 - side : 7 + side])
    x = images(2, 32, *size)
    torch.testing.assert_close(module(x), x + theirs(x), rtol=1e-6, atol=1e-6)


def test_attention_follows_the_offsets():
    """With queries of 1 and a single offset that counts, each position attends to the one at this offset."""
    module = MHSA(1, 1, 6, dims=1).double()
    with torch.no_grad():
        module.qkv.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1))
        module.gamma.fill_(1)
        module.relative_width.zero_()
        x = torch.tensor([[[1.0, 2, 4, 8]]]).double()
        torch.testing.assert_close(module(x), x + x.mean())
        module.qkv.weight[0] = 1
        module.relative_width[5 + 1] = 1000  # the next position
        torch.testing.assert_close(module(x), x + torch.tensor([[[2.0, 4, 8, 15 / 4]]]).double())


def test_starts_as_the_identity():
    x = images(2, 8, 5, 4).float()
    module = MHSA(8)
    assert torch.equal(module(x), x)
    (module(x) ** 2).mean().backward()
    assert module.gamma.grad.any()


def test_parameters_and_their_initial_values():
    torch.manual_seed(0)
    module = MHSA(64, 2, 16, dims=3)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    tables = {f"relative_{axis}": (31, 32) for axis in AXES}
    assert shapes == {"gamma": (1,), **tables, "qkv.weight": (192, 64, 1)}
    assert sum(p.numel() for p in module.parameters()) == 3 * 64**2 + 3 * (2 * 16 - 1) * 64 // 2 + 1
    for name, parameter in module.state_dict().items():
        expected = {"gamma": 0, "qkv.weight": 64**-0.5}.get(name, 32**-0.5)
        assert abs(float(parameter.std(correction=0)) - expected) < 0.1 * expected + 1e-12, name
        assert abs(float(parameter.mean())) < 0.1 * expected + 1e-12, name


def saved_elements(function):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.itemsize
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    del output
    return sum(sizes.values())


def test_memory_grows_with_the_number_of_positions():
    module = randomised(MHSA(8, 2, 64))
    small, large = (images(1, 8, side, side).float() for side in (16, 32))
    saved = [saved_elements(lambda x=x: module(x)) for x in (small, large)]
    assert saved[1] < 7 * saved[0]  # 4 times the positions, and heads that are up to twice as wide
    assert saved[1] < 2 * (32 * 32) ** 2 / 2  # a quarter of the logits of both heads


def test_every_kernel_computes_the_same():
    module, x = randomised(MHSA(8, 2)).double(), images(2, 8, 5, 4).requires_grad_()
    results = []
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(kernel):
            output = module(x)
            results.append([output, *torch.autograd.grad(output.sin().sum(), [x, *module.parameters()])])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


def test_the_plain_kernel_has_a_second_derivative_and_forward_mode():
    module, x = randomised(MHSA(4, 2)).double(), images(1, 4, 2, 3).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(module, x)
        _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(tangent.sum(), gradient.sum())


def test_queries_are_scaled_once():
    module, x = randomised(MHSA(4, 1, dims=1)).double(), images(1, 4, 3)
    torch.nn.init.zeros_(module.relative_width)
    torch.nn.init.ones_(module.gamma)
    q, k, v = F.conv1d(x, module.qkv.weight).chunk(3, 1)
    weights = (q.mT @ k / 2).softmax(-1)
    torch.testing.assert_close(module(x), x + (weights @ v.mT).mT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0; give a whole number of at least 1"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": 3}, "heads is 3, which does not divide 8 channels; give a divisor, for example 1"),
        ({"heads": 12}, "heads is 12, which does not divide 8 channels; give a divisor, for example 4"),
        ({"channels": 6}, "heads is 4, which does not divide 6 channels; give a divisor, for example 2"),
        ({"max_size": 0}, "max_size is 0"),
        ({"dims": 4}, "dims is 4"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        MHSA(**{"channels": 8, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 8, 5, 17), (2, 8, 17, 5), (1, 8, 17, 17)])
def test_refuses_a_map_larger_than_its_relative_positions(shape):
    module = MHSA(8, max_size=16)
    with pytest.raises(UsageError) as caught:
        module(torch.zeros(shape))
    assert str(caught.value) == (
        "MHSA has relative positions for maps of up to 16 positions along each axis, but was given "
        f"{shape}. Make it with max_size=17."
    )
    assert module(torch.zeros(2, 8, 16, 16)).shape == (2, 8, 16, 16)


def test_printing_shows_the_options():
    assert "heads=2, max_size=16, dims=1" in repr(MHSA(8, 2, 16, 1))
