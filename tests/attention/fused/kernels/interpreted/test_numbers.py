"""The kernels against the reference in float64: output, gradients, running statistics."""

import pytest
import torch
from hypothesis import Phase, given, settings
from torch import nn

from cbam_lightning.models.resnet import BasicBlock, Bottleneck
from tests.attention.checks import randomised
from tests.attention.fused.comparing import as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, ends, feature_maps, modules
from tests.attention.fused.kernels.interpreted.comparing import (
    ROUNDED,
    TOLERANCE,
    assert_equals_reference,
    errors_of,
    exact_results,
    results,
    runs_kernels,
)

pytestmark = pytest.mark.usefixtures("uncompiled")
# A case takes seconds, so a failing one is not made smaller.
few = settings(derandomize=True, deadline=None, max_examples=12, phases=[Phase.generate])
many = settings(few, max_examples=400)
# Among many cases there are sums that cancel, and equal values, whose rounding BatchNorm multiplies by 316.
RARE = 5 * TOLERANCE


@few
@given(modules())
def test_equals_the_reference(drawn):
    module, how = drawn
    assert_equals_reference(module, *feature_maps(module, **how))


@few
@given(ends())
def test_the_end_of_a_block_equals_the_reference(drawn):
    end, how = drawn
    assert_equals_reference(end, *feature_maps(end, **how))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many
@given(modules())
def test_equals_the_reference_in_many_cases(drawn):
    module, how = drawn
    assert_equals_reference(module, *feature_maps(module, **how), tolerance=RARE)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many
@given(ends())
def test_the_end_of_a_block_equals_the_reference_in_many_cases(drawn):
    end, how = drawn
    assert_equals_reference(end, *feature_maps(end, **how), tolerance=RARE)


WIDE = [("se", (2, 1030, 3, 1)), pytest.param("channel-spatial", (2, 2048, 1, 2), marks=pytest.mark.slow)]


@pytest.mark.parametrize(("arrangement", "shape"), WIDE)
def test_many_channels(arrangement, shape):
    end = create_end(arrangement, shape[1], reduction=64, kernel_size=1)
    end.bn.eval()
    assert_equals_reference(end, *feature_maps(end, shape, layout="channels last"))


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("offset", [100.0, -1000.0])
def test_a_large_mean_cancels_nothing(offset, layout):
    for training in (True, False):
        end = create_end("channel-spatial", 24, kernel_size=3).train(training)
        end.bn.running_mean += offset
        assert_equals_reference(end, *feature_maps(end, (3, 24, 6, 5), layout=layout, offset=offset))


@pytest.mark.parametrize(
    ("layout", "kernel_size"),
    [("contiguous", 1), ("channels last", 1), ("contiguous", 7), ("channels last", 3)],
)
def test_an_image_is_divided_among_programs(layout, kernel_size):
    end = create_end("channel-spatial", 8, kernel_size=kernel_size)
    assert_equals_reference(end, *feature_maps(end, (1, 8, 29, 31), "rounded", layout))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_in_half_precision(dtype):
    end = create_end("channel-spatial", 8).to(dtype)
    maps = feature_maps(end, (2, 8, 4, 3), dtype=dtype)
    output, found = results(as_fused(end), *maps)
    assert runs_kernels(output)
    exact, scales = exact_results(end, *maps)
    assert all(value.dtype == dtype for value in found.values() if value.is_floating_point())
    assert max(errors_of(found, exact, scales).values()) < ROUNDED[dtype]


@pytest.mark.parametrize("make", [lambda: BasicBlock(4, 8, 2), lambda: Bottleneck(8, 2, 1)])
@pytest.mark.parametrize("arrangement", ["channel-spatial", "channel", "se"])
def test_blocks_of_a_resnet_end_in_the_kernels(arrangement, make, launches):
    block = make()
    block.attention = create(arrangement, 8)
    block = randomised(block).float()
    x = torch.randn(2, block.conv1.in_channels, 6, 4).requires_grad_()
    fused = as_fused(block)
    _, found = results(fused, x)
    assert len(launches) == (11 if arrangement != "channel-spatial" else 18)
    exact, scales = exact_results(block, x)
    assert max(errors_of(found, exact, scales).values()) < TOLERANCE * 3  # with the convolutions' own errors


def test_several_steps_move_the_running_statistics_as_ever():
    end = create_end("channel-spatial", 8, nn.BatchNorm2d(8, momentum=None))
    fused, exact = as_fused(end), as_fused(end).double()
    for step in range(3):
        maps = feature_maps(end, (2, 8, 3, 2), offset=float(step))
        fused(*maps)
        exact(*(x.double() for x in maps))
    assert fused.bn.num_batches_tracked == fused.attention.spatial.bn.num_batches_tracked == 3
    for (name, found), want in zip(fused.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(found.double(), want.double(), rtol=1e-5, atol=1e-6, msg=name)
