"""Comparison of both implementations: output, every gradient, every statistic, or the error."""

import copy

import torch
from torch import nn

from cbam_lightning.attention import CBAM, SqueezeExcite
from cbam_lightning.attention.fused.block import finish_block
from tests.attention.checks import images, randomised

ARRANGEMENTS = ("channel-spatial", "spatial-channel", "parallel", "channel", "spatial")
LAYOUTS = {3: [torch.contiguous_format]}
LAYOUTS[4] = [torch.contiguous_format, torch.channels_last]
LAYOUTS[5] = [torch.contiguous_format, torch.channels_last_3d]


class Block(nn.Module):
    """The end of a residual block."""

    def __init__(self, attention, channels=8, bn=None):
        super().__init__()
        self.bn = bn or nn.BatchNorm2d(channels)
        self.attention = attention
        self.relu = nn.ReLU()

    def forward(self, u, shortcut):
        return finish_block(u, self.bn, self.attention, shortcut, self.relu)


def create(arrangement, channels=8, reduction=2, **options):
    """Create a reference with random weights; ``se`` is an arrangement here."""
    if arrangement == "se":
        options.pop("kernel_size", None)
        return randomised(SqueezeExcite(channels, reduction, implementation="reference", **options))
    options = {"kernel_size": 3, "arrangement": arrangement, "implementation": "reference"} | options
    return randomised(CBAM(channels, reduction, **options))


def create_block(channels=8, bn=None, **options):
    return randomised(Block(create("channel-spatial", channels, **options), channels, bn))


def as_fused(module):
    """Copy a module, with the fused implementation where there is one."""
    duplicate = copy.deepcopy(module)
    for part in duplicate.modules():
        if hasattr(part, "implementation"):
            part.implementation = "fused"
    return duplicate


def fresh(x):
    """Copy a tensor into a leaf of its own, in the same layout."""
    return x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)


def function_of(output):
    """Name the function that made the output."""
    return type(output.grad_fn).__name__


def is_fused(output):
    return function_of(output) in ("_ScaleBackward", "_ScaleAddReluBackward")


def outcome(module, *inputs):
    """Return all results of a forward and a backward pass, or the type of the error."""
    inputs = [fresh(x) for x in inputs]
    try:
        output = module(*inputs)
    except ValueError as error:
        return type(error)
    output.backward(images(*output.shape).to(output.dtype))
    found = {"output": output.detach(), **dict(module.named_buffers())}
    found |= {f"gradient of input {i}": x.grad for i, x in enumerate(inputs)}
    return found | {f"gradient of {name}": p.grad for name, p in module.named_parameters()}


def assert_close(found, expected, tolerance):
    """Compare two outcomes; the tolerance is relative to the largest element, and to 1."""
    if not isinstance(expected, dict):
        assert found is expected
        return
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        got = found[name]
        if want is None or got is None:
            assert got is want, name
            continue
        assert got.dtype == want.dtype, name
        scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
        torch.testing.assert_close(
            got, want, rtol=0, atol=tolerance * scale, msg=lambda m, name=name: f"{name}: {m}"
        )


def assert_same(module, *inputs, tolerance=1e-12):
    """Compare a reference with its fused copy, and check that the copy runs fused."""
    fused = as_fused(module)
    expected = outcome(module, *inputs)
    assert_close(outcome(fused, *inputs), expected, tolerance)
    if isinstance(expected, dict):
        assert is_fused(fused(*inputs))
        assert not is_fused(module(*inputs))
