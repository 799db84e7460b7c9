"""The top-down path, written out in sums, in float64."""

import pytest
import torch
from torch import nn

from cbam_lightning.models.detection.stairnet import TopDown, xavier
from tests.models.detection.scenes import randomise


def convolve(x, weight):
    """1x1 or padded 3x3 convolution, a tap at a time."""
    k = weight.shape[2]
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + k - 1, x.shape[3] + k - 1)
    padded[:, :, k // 2 : k // 2 + x.shape[2], k // 2 : k // 2 + x.shape[3]] = x
    total = 0
    for i in range(k):
        for j in range(k):
            window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
            total = total + torch.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    return total


def upsample(x, weight, stride, size):
    """Every position adds its 3x3 patch, which is cut off by a margin of stride - 1, to the result."""
    n, _, h, w = x.shape
    margin = stride - 1
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    total = x.new_zeros(n, weight.shape[1], height + 3, width + 3)
    for i in range(h):
        for j in range(w):
            patch = torch.einsum("nc,cokl->nokl", x[:, :, i, j], weight)
            total[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3] += patch
    return total[:, :, margin : margin + size[0], margin : margin + size[1]]


def normalise(x, bn, training):
    mean, var = bn.running_mean, bn.running_var
    if training:
        count = x.numel() / x.shape[1]
        mean = x.sum((0, 2, 3)) / count
        var = ((x - mean[:, None, None]) ** 2).sum((0, 2, 3)) / count
    scale = bn.weight / (var + bn.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def literal(path, maps, strides, training):
    merged = outputs = None
    outputs = []
    for level in reversed(range(len(maps))):
        conv, bn = path.lateral[level]
        lateral = normalise(convolve(maps[level], conv.weight), bn, training)
        if merged is not None:
            up = path.up[level]
            above = upsample(merged, up.conv.weight, strides[level], lateral.shape[2:])
            lateral = lateral + normalise(above, up.bn, training)
        merged = lateral
        conv, bn, _ = path.smooth[level]
        outputs.insert(0, normalise(convolve(merged, conv.weight), bn, training).clamp(min=0))
    return outputs


# SSD300's last four maps, and the sizes 2 h and 2 h - 1 beside one another in one map
CASES = {
    "ssd300": ([(10, 10), (5, 5), (3, 3), (1, 1)], (2, 2, 1)),
    "small": ([(7, 8), (4, 4), (2, 2)], (2, 2)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(case, training):
    torch.manual_seed(0)
    sizes, strides = CASES[case]
    in_channels = [3, 4, 5, 2][: len(sizes)]
    path = randomise(TopDown(in_channels, 6, strides, momentum=0.01).double()).train(training)
    maps = [
        torch.randn(2, c, *size, dtype=torch.float64, requires_grad=True)
        for c, size in zip(in_channels, sizes, strict=True)
    ]
    expected = literal(path, maps, strides, training)
    weights = [torch.randn_like(value) for value in expected]
    sought = [*maps, *path.parameters()]

    def gradients(outputs):
        return torch.autograd.grad(sum((w * y).sum() for w, y in zip(weights, outputs, strict=True)), sought)

    expected_gradients = gradients(expected)
    outputs = path(maps)
    assert [tuple(y.shape) for y in outputs] == [(2, 6, *size) for size in sizes]
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(outputs), expected_gradients, rtol=1e-8, atol=1e-8)
    assert all(gradient.abs().sum() > 0 for gradient in expected_gradients)


def test_ssd300s_maps_fit_the_strides_of_the_vgg():
    with torch.device("meta"):
        path = TopDown([8] * 6, 4, (2, 2, 2, 2, 1), momentum=0.01).eval()
        maps = [torch.empty(1, 8, side, side) for side in (38, 19, 10, 5, 3, 1)]
        assert [y.shape[2] for y in path(maps)] == [38, 19, 10, 5, 3, 1]


def test_batch_norms_have_the_momentum_and_convolutions_no_bias():
    path = TopDown([3, 4], 6, (2,), momentum=0.02)
    assert {m.momentum for m in path.modules() if isinstance(m, nn.BatchNorm2d)} == {0.02}
    convolutions = [m for m in path.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 5
    assert all(m.bias is None for m in convolutions)


def test_xavier_sets_bound_and_bias():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(5, 4, 3))
    xavier(layers)
    for layer, fans in zip(layers, ((3 * 9, 5 * 9), (5 * 9, 4 * 9)), strict=True):
        bound = (6 / sum(fans)) ** 0.5  # http://proceedings.mlr.press/v9/glorot10a.html, equation 16
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
