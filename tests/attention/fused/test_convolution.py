"""The convolution of the spatial gate, in either form, against its formula."""

import pytest
import torch
from torch import nn

from cbam_lightning.attention.fused import convolution
from cbam_lightning.attention.fused.convolution import convolve
from cbam_lightning.attention.positions import CONVOLUTIONS
from tests.attention import literal
from tests.attention.checks import images

pytestmark = pytest.mark.usefixtures("uncompiled")
SHAPES = [(3, 2, 9, 5), (2, 2, 3, 2), (1, 2, 1, 1), (2, 1, 8, 8), (3, 2, 11), (2, 3, 1), (2, 2, 3, 4, 5)]


@pytest.fixture(params=["windows", "library"])
def form(request, monkeypatch):
    """Run the form that is compiled on a CPU, and that of other devices, both uncompiled."""
    monkeypatch.setattr(convolution, "_pays", lambda x: request.param == "windows")
    return request.param


def create(shape, kernel_size, dtype=torch.float64):
    conv = CONVOLUTIONS[len(shape) - 2](shape[1], 1, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.normal_(conv.weight)
    return conv.to(dtype)


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_formula(form, shape, kernel_size):
    conv, maps = create(shape, kernel_size), images(*shape).requires_grad_()
    output = convolve(conv, maps)
    expected = literal.convolve(maps, conv.weight[0])[:, None]
    assert type(output.grad_fn).__name__ == "_ConvolveBackward"
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    gradient = images(*output.shape)
    found, wanted = (torch.autograd.grad(y, [maps, conv.weight], gradient) for y in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_maps_with_their_channels_side_by_side(form):
    conv, maps = create((3, 2, 9, 5), 3), images(3, 2, 9, 5)
    last = maps.to(memory_format=torch.channels_last).requires_grad_()
    maps.requires_grad_()
    outputs = [convolve(conv, x) for x in (maps, last)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-13)
    gradients = [
        torch.autograd.grad(y.square().sum(), [x, conv.weight])
        for y, x in zip(outputs, (maps, last), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_weight_in_half_precision_gets_its_gradient_in_half_precision(form):
    conv, maps = create((3, 2, 9, 5), 3, torch.float16), images(3, 2, 9, 5).float().requires_grad_()
    output = convolve(conv, maps)
    output.sum().backward()
    assert (output.dtype, maps.grad.dtype) == (torch.float32, torch.float32)
    assert conv.weight.grad.dtype == torch.float16
    torch.testing.assert_close(
        output, literal.convolve(maps, conv.weight[0].float())[:, None], rtol=1e-5, atol=1e-5
    )


def test_a_convolution_that_is_watched_is_called():
    conv, maps, seen = create((3, 2, 9, 5), 3), images(3, 2, 9, 5), []
    expected = convolve(conv, maps)
    conv.register_forward_hook(lambda *given: seen.append(given[-1]))
    torch.testing.assert_close(convolve(conv, maps), expected, rtol=0, atol=1e-13)
    assert len(seen) == 1


def test_an_empty_batch_stays_empty():
    conv, maps = create((3, 2, 9, 5), 3), torch.zeros(0, 2, 9, 5, dtype=torch.float64, requires_grad=True)
    output = convolve(conv, maps)
    output.sum().backward()
    assert output.shape == (0, 1, 9, 5)
    assert conv.weight.grad.count_nonzero() == 0
