"""The list of operations that are not deterministic on CUDA, tried on what is known to be on it."""

import pytest
import torch
from torch.nn import functional as F

from tests.attention.operations import OperationNames

ROWS = torch.tensor([0, 1, 1])
FAULTY = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "window": lambda x: F.max_pool3d(x, 2, stride=1),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "index": lambda x: x[ROWS],
    "index_select": lambda x: x.index_select(0, ROWS),
    "gather": lambda x: x.gather(1, torch.zeros(4, 1, 6, 6, dtype=torch.int64)),
    "embedding": lambda x: F.embedding(ROWS, x[:, 0, 0]),
    "cumsum": lambda x: x.cumsum(1),
    "max": lambda x: x.max(1).values,
}


@pytest.mark.parametrize("case", FAULTY)
def test_operations_of_the_list_are_found(case):
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    with OperationNames() as operations:
        FAULTY[case](x).sum().backward()
    assert operations.not_deterministic(), operations.names


def test_plain_reductions_are_not_on_it():
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    with OperationNames() as operations:
        (x.mean((2, 3)) + x.amax((2, 3)) + F.conv2d(x, torch.ones(3, 3, 6, 6)).flatten(1)).sum().backward()
    assert not operations.not_deterministic()
