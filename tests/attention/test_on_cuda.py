"""Every registered attention on a GPU: its numbers, equal repeats, half precision, compilation."""

import copy

import pytest
import torch

from cbam_lightning.attention import create_attention
from tests.attention.cases import EVERY_CASE, HALF, MODE, NAMES, create, published
from tests.attention.checks import assert_survives_large_inputs, images

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Let convolutions round to float32, not to TF32, and matrix products repeat."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def results(module, x):
    """Return the output and all gradients."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = module(x)
    cotangent = images(*output.shape).cos().to(output)
    return output, *torch.autograd.grad(output, [x, *module.parameters()], cotangent)


def assert_close(found, expected, tolerance):
    """Compare; the tolerance is relative to the largest element, and to 1."""
    for got, want in zip(found, expected, strict=True):
        scale = max(1.0, float(want.detach().abs().max()))
        torch.testing.assert_close(got.double().cpu(), want.double().cpu(), rtol=0, atol=tolerance * scale)


@EVERY_CASE
@MODE
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_computes_what_it_does_on_the_cpu_and_repeats_bit_for_bit(name, options, training, layout):
    module = create(name, options).train(training)
    x = images(4, 8, 9, 10)
    expected = results(copy.deepcopy(module).double(), x)
    x = x.float().to("cuda", memory_format=layout)
    torch.use_deterministic_algorithms(True)
    try:
        found, again = (results(copy.deepcopy(module).cuda(), x) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(found, expected, 2e-5)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))


@EVERY_CASE
@MODE
@HALF
def test_large_inputs_do_not_overflow(name, options, training, dtype):
    module = create_attention(name, 8, **options).cuda().train(training)
    assert_survives_large_inputs(module, dtype, "cuda")
    assert_survives_large_inputs(create(name, options).cuda().train(training), dtype, "cuda")


@pytest.mark.parametrize("name", NAMES)
def test_compiles(name):
    module = create(name, published(name)).cuda()
    x = images(4, 8, 9, 10).float().cuda()
    expected = results(copy.deepcopy(module), x)
    torch.compiler.reset()
    assert_close(results(torch.compile(module, fullgraph=True), x), expected, 2e-5)
