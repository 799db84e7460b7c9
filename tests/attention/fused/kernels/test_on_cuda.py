"""The kernels on a GPU against the reference in float64: results, running statistics, equal repeats."""

import copy

import pytest
import torch
from hypothesis import Phase, given, seed, settings
from torch import nn

from cbam_lightning.models.resnet import Bottleneck
from tests.attention.checks import randomised
from tests.attention.fused.comparing import ARRANGEMENTS, as_fused, create
from tests.attention.fused.kernels.interpreted.cases import create_end, ends, feature_maps, modules
from tests.attention.fused.kernels.interpreted.comparing import (
    TOLERANCE,
    assert_equals_reference,
    errors_of,
    exact_results,
    results,
    runs_kernels,
)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(600),
]
# Each case compiles its kernels, so the cases are divided among the processes that run tests.
few = settings(deadline=None, database=None, max_examples=3, phases=[Phase.generate])
PART = pytest.mark.parametrize("part", range(12))
SHAPES = [(64, 64, 56, 56), (32, 512, 28, 28), (16, 1024, 14, 14), (16, 2048, 7, 7)]
LAYOUT = pytest.mark.parametrize("layout", ["contiguous", "channels last"])
DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def on_cuda(module, maps):
    return module.cuda(), [x.detach().cuda().requires_grad_() for x in maps]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Let convolutions round to float32, not to TF32, and matrix products repeat."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def equals_the_reference(drawn):
    module, how = drawn
    module, maps = on_cuda(module, feature_maps(module, **how))
    assert_equals_reference(module, *maps)


@PART
def test_equals_the_reference(part):
    seed(part)(few(given(modules())(equals_the_reference)))()


@PART
def test_the_end_of_a_block_equals_the_reference(part):
    seed(part)(few(given(ends())(equals_the_reference)))()


def assert_close_on_the_whole(found, exact):
    """Compare norms, and coarsely: of a million maxima, float32 takes some for others than float64 does."""
    coarse = {torch.float16: 3e-3, torch.bfloat16: 8e-3}
    for name, want in exact.items():
        if want.is_floating_point():
            error = float((found[name].double() - want).norm() / (want.norm() + 1e-30))
            assert error < coarse.get(found[name].dtype, 2e-3), (name, error)


@LAYOUT
@DTYPE
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_resnet(shape, dtype, layout):
    end = create_end("channel-spatial", shape[1], reduction=16, kernel_size=7)
    for parameter in end.attention.channel.parameters():
        nn.init.normal_(parameter, std=0.05)  # so that no gate of 1,024 channels is 0 or 1
    end, maps = on_cuda(end, feature_maps(end, shape, layout=layout, dtype=dtype))
    output, found = results(as_fused(end), *maps)
    assert runs_kernels(output)
    assert_close_on_the_whole(found, exact_results(end, *maps)[0])


@LAYOUT
@pytest.mark.parametrize("arrangement", [*ARRANGEMENTS, "se", "end"])
def test_repeats_have_equal_bits(arrangement, layout):
    module = create_end("channel-spatial", 96) if arrangement == "end" else create(arrangement, 96).float()
    maps = feature_maps(module, (16, 96, 30, 29), "rounded", layout, torch.bfloat16)
    module, maps = on_cuda(as_fused(module), maps)
    torch.use_deterministic_algorithms(True)
    try:
        output, first = results(copy.deepcopy(module), *maps)
        assert runs_kernels(output)
        for _ in range(3):
            again = results(copy.deepcopy(module), *maps)[1]
            assert all(torch.equal(again[name], value) for name, value in first.items())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("arrangement", ["channel-spatial", "channel", "se"])
def test_a_compiled_block_runs_the_kernels(arrangement):
    block = Bottleneck(64, 16, 1)
    block.attention = create(arrangement, 64)
    block, (x,) = on_cuda(as_fused(randomised(block).float()), [torch.randn(4, 64, 14, 14)])
    for parameter in block.attention.parameters():
        nn.init.normal_(parameter, std=0.1)
    exact, scales = exact_results(block, x)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        found = results(compiled, x)[1]
    found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
    assert max(errors_of(found, exact, scales).values()) < 10 * TOLERANCE
    assert any("product_kernel" in event.key for event in recorded.key_averages())


@DTYPE
def test_autocast_keeps_the_dtype_of_the_map(dtype):
    module = create("channel-spatial", 64, kernel_size=7).float()
    for parameter in module.channel.parameters():
        nn.init.normal_(parameter, std=0.05)
    module, (x,) = on_cuda(module, feature_maps(module, (8, 64, 15, 17), dtype=dtype))
    exact, _ = exact_results(module, x)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        output, found = results(as_fused(module), x)
    assert runs_kernels(output)
    assert output.dtype == dtype
    assert_close_on_the_whole(found, exact)
