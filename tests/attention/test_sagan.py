"""SAGAN's self-attention against its formula."""

import pytest
import torch

from cbam_lightning.attention import SAGAN
from cbam_lightning.attention.registry import default_placement
from cbam_lightning.errors import UsageError
from tests.attention import literal
from tests.attention.checks import assert_equals_literal, images, randomised


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 6, 5, 4), (2, 6, 3, 4, 2)], ids=len)
@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_equals_its_formula(reduction, shape):
    assert_equals_literal(randomised(SAGAN(6, reduction).double()), literal.sagan, shape)


def test_attention_over_one_position_is_two_matrices():
    module, x = randomised(SAGAN(6).double()), images(2, 6, 1)
    seen = module.output.weight[:, :, 0] @ module.value.weight[:, :, 0] @ x
    torch.testing.assert_close(module(x), x + module.gamma * seen)


def test_does_not_know_the_order_of_the_positions():
    module, x = randomised(SAGAN(6).double()), images(2, 6, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x)[..., order], module(x[..., order]))


@pytest.mark.parametrize(("channels", "hidden", "half"), [(1, 1, 1), (6, 1, 3), (64, 8, 32)])
def test_widths_are_an_eighth_and_a_half(channels, hidden, half):
    shapes = {name: tuple(p.shape) for name, p in SAGAN(channels).named_parameters()}
    assert shapes == {
        "gamma": (1,),
        "query.weight": (hidden, channels, 1),
        "key.weight": (hidden, channels, 1),
        "value.weight": (half, channels, 1),
        "output.weight": (channels, half, 1),
    }


@pytest.mark.parametrize(
    ("options", "message"), [({"channels": 0}, "channels is 0"), ({"reduction": -8}, "-8")]
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        SAGAN(**{"channels": 8, **options})


def test_usually_comes_after_stages():
    assert default_placement("sagan") == "stage"
