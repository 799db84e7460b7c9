"""Logits within what their dtype resolves."""

import pytest
import torch

from cbam_lightning.attention.limited_logits import limited
from tests.attention.checks import images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_queries_with_larger_logits_become_shorter(dtype):
    query, key = images(2, 3, 5, 4, dtype=dtype), images(2, 3, 7, 4, dtype=dtype).flip(2)
    query[:, :, 0] = 0
    query[0, 1, 2] *= 1e20
    key[0, 1, 3] *= 1e10
    found, limit = limited(query, key), 1 / (8 * torch.finfo(dtype).eps)
    bound = query.abs().sum(-1) * key.abs().amax((-2, -1))[..., None]
    within = bound <= limit
    assert within.any()
    assert not within.all()
    assert torch.equal(found[within], query[within])
    assert ((found @ key.mT).abs() <= 1.001 * limit).all()
    cosine = torch.cosine_similarity(found[~within].double(), query[~within].double(), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_gradient_is_scaled_alike():
    query, key = images(1, 1, 2, 4).requires_grad_(), images(1, 1, 3, 4)
    (limited(1e20 * query, key) * images(1, 1, 2, 4)).sum().backward()
    factor = limited(1e20 * query, key) / query
    torch.testing.assert_close(query.grad, factor.detach() * images(1, 1, 2, 4))
