"""Fused CBAM and SE against the reference and against the formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from cbam_lightning.attention import CBAM, SqueezeExcite
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised
from tests.attention.fused.comparing import (
    ARRANGEMENTS,
    LAYOUTS,
    as_fused,
    assert_same,
    create,
    is_fused,
)

pytestmark = pytest.mark.usefixtures("uncompiled")
EVERY = [*ARRANGEMENTS, "se"]
KINDS = ("smooth", "rounded", "rectified", "equal", "dead channels")


def feature_map(kind, shape, seed):
    """Make a map; all kinds but ``smooth`` have many equal values, across positions and channels."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if kind == "smooth":
        return x
    x = (2 * x).round() / 2
    if kind == "equal":
        return x.flatten()[0].expand(shape).contiguous()
    if kind == "rectified":
        return x.clamp(min=0)
    if kind == "dead channels":
        x[:, ::2] = 0
    return x


@st.composite
def attentions(draw, channels, dims):
    seed = draw(st.integers(0, 9))
    options = {"channels": channels, "reduction": draw(st.sampled_from([1, 4, 16]))}
    options["gate"] = gate = draw(st.sampled_from(["sigmoid", "identity"]))
    arrangement = draw(st.sampled_from(EVERY))
    if arrangement == "se":
        module = SqueezeExcite(**options, implementation="reference")
    else:
        module = CBAM(
            **options,
            arrangement=arrangement,
            pools=draw(st.sampled_from([("avg", "max"), ("avg",), ("max", "avg")])),
            kernel_size=draw(st.sampled_from([1, 3, 7])),
            spatial_relu=gate == "sigmoid" and draw(st.booleans()),
            dims=dims,
            implementation="reference",
        )
    module = randomised(module, seed)
    if arrangement != "spatial" and draw(st.booleans()):
        # The channel gate is then the same for every channel, so that equal values stay equal behind it.
        last = (module if arrangement == "se" else module.channel).mlp[2]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 0.25)
    return module.double().train(draw(st.booleans()))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_equals_the_reference(data):
    dims = data.draw(st.sampled_from([2, 2, 1, 3]))
    channels = data.draw(st.integers(1, 20))
    module = data.draw(attentions(channels, dims))
    sides = [data.draw(st.integers(1, 9 if dims < 3 else 4)) for _ in range(dims)]
    shape = (data.draw(st.integers(1, 4)), channels, *sides)
    x = feature_map(data.draw(st.sampled_from(KINDS)), shape, data.draw(st.integers(0, 9)))
    x = x.contiguous(memory_format=data.draw(st.sampled_from(LAYOUTS[x.ndim])))
    assert_same(module, x.requires_grad_())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_cbam_equals_its_formula(arrangement, gate, training):
    module = as_fused(create(arrangement, 6, gate=gate)).double().train(training)
    assert is_fused(module(images(2, 6, 5, 4)))
    pools = ("avg", "max")
    assert_equals_literal(
        module,
        lambda x, weights: literal.cbam(x, weights, arrangement, pools, "avg+max", False, gate, training),
    )


@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (2, 6, 9), (2, 6, 3, 4, 5)])
def test_se_equals_its_formula(shape):
    module = as_fused(create("se", 6)).double()
    assert_equals_literal(module, lambda x, w: x * literal.channel_gate(x, w, ("avg",)), shape)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("arrangement", EVERY)
def test_gradients_pass_gradcheck(arrangement, training):
    module = as_fused(create(arrangement, 4)).double().train(training)
    parameters = dict(module.named_parameters())

    def function(x, *values):
        return functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    x = images(2, 4, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("arrangement", EVERY)
def test_equal_maxima_share_their_gradient(arrangement):
    # 3 of 4 positions and both channels are the maximum.
    x = torch.tensor([[[[3.0, 3.0], [3.0, 1.0]], [[3.0, 3.0], [3.0, 1.0]]]], dtype=torch.float64)
    module = create(arrangement, 2, gate="identity").double().eval()
    if hasattr(module, "spatial"):
        torch.nn.init.zeros_(module.spatial.bn.weight)
    x.requires_grad_()
    assert_same(module, x)
    (gradient,) = torch.autograd.grad(as_fused(module)(x).sum(), x)
    equal = gradient.flatten(2)[..., :3]
    torch.testing.assert_close(equal, equal[..., :1].expand_as(equal), rtol=1e-14, atol=0)


@pytest.mark.parametrize("arrangement", EVERY)
@pytest.mark.parametrize(
    "make",
    [
        lambda: images(2, 8, 9, 5)[:, :, ::2],
        lambda: images(2, 5, 8, 4).transpose(1, 2),
        lambda: images(1, 8, 1, 1).expand(2, 8, 5, 4),
        lambda: images(2, 8, 5, 4).to(memory_format=torch.channels_last),
    ],
    ids=["strided", "transposed", "expanded", "channels_last"],
)
def test_any_layout_is_taken_and_kept_as_the_reference_keeps_it(arrangement, make):
    module, x = create(arrangement).double(), make().requires_grad_()
    assert_same(module, x)
    outputs = [m(x) for m in (module, as_fused(module))]
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in outputs]
    for last in (torch.contiguous_format, torch.channels_last):
        for reference, fused in (outputs, gradients):
            if reference.is_contiguous(memory_format=last):
                assert fused.is_contiguous(memory_format=last)


@pytest.mark.parametrize("arrangement", EVERY)
def test_the_identity_gate_returns_its_input_bit_for_bit(arrangement):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        options = {"channels": 6, "gate": "identity", "implementation": "fused"}
        module = SqueezeExcite(**options) if arrangement == "se" else CBAM(**options, arrangement=arrangement)
        x = 100 * images(2, 6, 5, 4).to(dtype)
        output = module(x)
        assert is_fused(output)
        assert torch.equal(output, x)


@pytest.mark.parametrize("arrangement", EVERY)
def test_an_empty_batch_in_eval_stays_empty(arrangement):
    x = torch.zeros(0, 8, 5, 4, requires_grad=True)
    output = as_fused(create(arrangement)).eval()(x)
    output.sum().backward()
    assert output.shape == x.grad.shape == x.shape


@pytest.mark.parametrize("arrangement", EVERY)
@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1, 1, 1)])
def test_no_positions_or_too_many_dimensions_are_refused(arrangement, shape):
    with pytest.raises(UsageError, match=r"takes \(N, C, .*but was given"):
        as_fused(create(arrangement))(torch.zeros(shape))


def test_other_dimensions_than_it_was_made_for_are_refused():
    with pytest.raises(UsageError, match=r"was made with dims=2 and takes .*Make it with dims=1"):
        as_fused(create("channel-spatial"))(torch.zeros(2, 8, 3))


def test_a_convolution_of_another_kind_is_left_to_the_reference():
    # Its gradient is not the convolution with the mirrored kernel.
    module = create("channel-spatial").double()
    module.spatial.conv = torch.nn.Conv2d(2, 1, 3, padding=2, dilation=2, bias=False).double()
    fused, x = as_fused(module), images(2, 8, 5, 4).requires_grad_()
    gradients = [torch.autograd.grad(m(x).square().sum(), x)[0] for m in (module, fused)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert not is_fused(fused(x))
