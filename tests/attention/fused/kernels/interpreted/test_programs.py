"""Launches that are recorded at the first pass and started again for others."""

import pytest
import torch

from cbam_lightning.attention.fused.kernels import program
from tests.attention.fused.comparing import as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, feature_maps
from tests.attention.fused.kernels.interpreted.comparing import (
    TOLERANCE,
    assert_equals_reference,
    errors_of,
    exact_results,
    results,
)

SHAPE = (2, 8, 3, 2)


@pytest.fixture
def recorded(monkeypatch):
    """What is recorded: the name of the pass and the dtype of its first map."""
    found, create_program = [], program.Program

    def record(body, sequence, arguments, device):
        found.append((body.__name__, arguments[0][0].dtype))
        return create_program(body, sequence, arguments, device)

    monkeypatch.setattr(program, "Program", record)
    return found


def fresh_end(eps):
    """Create the end of a block that no other test has recorded."""
    end = create_end("channel-spatial", SHAPE[1], kernel_size=1)
    end.bn.eps = eps
    return end


def test_a_pass_is_recorded_once_for_all_tensors_of_its_kind(recorded):
    end = fresh_end(1e-3)
    for kind in ("smooth", "rounded", "equal"):
        assert_equals_reference(end, *feature_maps(end, SHAPE, kind))
        for parameter in end.parameters():
            parameter.data = parameter.data.flip(0).clone()  # elsewhere in memory
    assert recorded == [("_forward", torch.float32), ("_backward", torch.float32)]


def test_every_kind_is_recorded_by_itself(recorded):
    end = fresh_end(2e-3)
    for change in ({}, {"dtype": torch.float16}, {"dtype": torch.bfloat16}, {"layout": "channels last"}):
        assert_equals_reference(end, *feature_maps(end, SHAPE, **change))
    assert_equals_reference(end.eval(), *feature_maps(end, SHAPE))
    assert len(recorded) == 2 * 5


def test_a_shortcut_may_be_the_map_itself(recorded):
    end = fresh_end(3e-3)
    assert_equals_reference(end, *feature_maps(end, SHAPE))
    x = feature_maps(end, SHAPE)[0].detach().requires_grad_()
    output = as_fused(end)(x, x)
    output.sum().backward()
    exact, wide = as_fused(end).double(), x.detach().double().requires_grad_()
    exact(wide, wide).sum().backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    assert len(recorded) == 2


def test_what_is_not_aligned_runs_without(recorded):
    module = create("channel-spatial", 8, kernel_size=1, reduction=4).float()
    x = feature_maps(module, (3, 8, 2, 5))[0]
    elsewhere = torch.empty(x.numel() + 1)[1:].view_as(x).copy_(x.detach()).requires_grad_()
    assert elsewhere.data_ptr() % 16
    exact, scales = exact_results(module, x)
    output = as_fused(module)(elsewhere)
    torch.testing.assert_close(output.double(), exact["output"], rtol=1e-5, atol=1e-6)
    assert not recorded
    assert max(errors_of(results(as_fused(module), x)[1], exact, scales).values()) < TOLERANCE
    assert len(recorded) == 2
