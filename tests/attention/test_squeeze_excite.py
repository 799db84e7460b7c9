"""Squeeze-and-excitation against its formula."""

import pytest
import torch
from timm.layers import SEModule

from cbam_lightning.attention import CBAM, SqueezeExcite
from cbam_lightning.errors import UsageError


@pytest.mark.parametrize("gate", ["sigmoid", "identity"])
def test_equals_its_formula(gate):
    torch.manual_seed(0)
    module = SqueezeExcite(6, reduction=2, gate=gate).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    first, _, second = module.mlp
    copies = [p.detach().clone().requires_grad_() for p in module.parameters()]
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)

    squeezed = x.sum((2, 3)) / 20
    hidden = (squeezed @ copies[0].T + copies[1]).clamp(min=0)
    excited = 1 / (1 + torch.exp(-(hidden @ copies[2].T + copies[3])))
    expected = x * excited[:, :, None, None] * {"sigmoid": 1, "identity": 2}[gate]

    output = module(x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(output)
    ours = [x, first.weight, first.bias, second.weight, second.bias]
    for got, want in zip(
        torch.autograd.grad(output, ours, cotangent),
        torch.autograd.grad(expected, [x, *copies], cotangent),
        strict=True,
    ):
        assert want.abs().sum() > 0
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_is_the_channel_half_of_cbam_with_the_average_pool():
    cbam = CBAM(8, 2, pools=("avg",), arrangement="channel")
    module = SqueezeExcite(8, 2)
    module.load_state_dict(cbam.channel.state_dict())
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(module(x), cbam(x))


def test_passes_gradcheck():
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SqueezeExcite(4, 2).double(), (x,))


def test_identity_gate_returns_its_input_at_first():
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(SqueezeExcite(8, gate="identity")(x), x)
    assert not torch.equal(SqueezeExcite(8)(x), x)


@pytest.mark.parametrize("reduction", [4, 16, 24])
def test_hidden_units_of_a_divisor_are_those_of_timm(reduction):
    for channels in (1, 3, 16, 20, 64, 96, 192, 200, 320, 512, 2048):
        theirs = SEModule(channels, rd_ratio=1 / reduction).fc1
        ours = SqueezeExcite(channels, reduction, divisor=8).mlp[0]
        assert ours.weight.shape == theirs.weight.shape[:2]
        assert SqueezeExcite(channels, reduction).mlp[0].out_features == max(1, channels // reduction)


@pytest.mark.parametrize("divisor", [0, -8, 1.5, "8"])
def test_a_divisor_that_is_no_number_of_units_is_refused(divisor):
    with pytest.raises(UsageError, match=rf"divisor is {divisor!r}"):
        SqueezeExcite(16, divisor=divisor)
