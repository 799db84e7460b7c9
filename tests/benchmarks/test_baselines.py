"""What the benchmarks compare with computes the same function as the module that it is compared with."""

import importlib.util

import pytest
import torch

from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.benchmarks.baselines import baselines
from tests.attention.checks import images, randomised

WITH_AUTHORS = [
    ("cbam", {"reduction": 2}),
    ("cbam", {"reduction": 3, "kernel_size": 3}),
    ("se", {"reduction": 2}),
    ("bam", {"reduction": 2, "dilation": 2}),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "options"), WITH_AUTHORS)
def test_the_authors_form_has_the_output_and_gradients_of_ours(name, options, training):
    ours = randomised(create_attention(name, 6, **options).double()).train(training)
    theirs = baselines(ours)["authors"]
    assert theirs.training == training
    assert {id(p) for p in theirs.parameters()} == {id(p) for p in ours.parameters()}
    x, cotangent = images(2, 6, 5, 4).requires_grad_(), images(2, 6, 5, 4).cos()
    outputs = [module(x) for module in (theirs, ours)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out, [x, *ours.parameters()], cotangent) for out in outputs]
    assert gradients[1][0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def copy_parameters(ours, theirs, layers):
    """Give ``theirs`` the values of ``ours``, whose layers have other names there."""
    parameters = dict(theirs.named_parameters())
    for name, source in ours.named_parameters():
        layer, _, kind = name.rpartition(".")
        target = parameters.pop(f"{layers[layer]}.{kind}")
        target.data = source.detach().clone().reshape(target.shape)
    assert parameters.keys() <= {"conv_attn.bias"}  # the softmax cancels it


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        (
            "cbam",
            {"reduction": 3, "kernel_size": 3},
            {
                "channel.mlp.0": "channel.fc1",
                "channel.mlp.2": "channel.fc2",
                "spatial.conv": "spatial.conv.conv",
                "spatial.bn": "spatial.conv.bn",
            },
        ),
        ("se", {"reduction": 2}, {"mlp.0": "fc1", "mlp.2": "fc2"}),
        ("ese", {}, {"fc": "fc"}),
        ("ge", {}, {}),
        (
            "gc",
            {"reduction": 1},
            {
                "attend": "conv_attn",
                "mlp.fc1": "mlp_add.fc1",
                "mlp.norm": "mlp_add.norm",
                "mlp.fc2": "mlp_add.fc2",
            },
        ),
        (
            "coord",
            {},
            {"squeeze": "conv1", "bn": "bn1", "excite.0": "conv_h", "excite.1": "conv_w"},
        ),
        ("eca", {"kernel_size": 5}, {"conv": "conv"}),
    ],
)
def test_the_form_of_timm_is_the_same_function_with_its_own_parameters(name, options, layers):
    pytest.importorskip("timm")
    ours = randomised(create_attention(name, 6, **options).double())
    theirs = baselines(ours)["timm"]
    copy_parameters(ours, theirs, layers)
    if name == "cbam":  # timm joins the mean first, then the maximum
        conv = theirs.spatial.conv.conv
        conv.weight.data = conv.weight.data.flip(1)
    x = images(2, 6, 5, 4)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-12, atol=1e-12)


def test_which_forms_there_are(monkeypatch):
    pytest.importorskip("timm")
    found = {name: list(baselines(create_attention(name, 16))) for name in list_attention()}
    assert {name: forms for name, forms in found.items() if forms} == {
        "bam": ["authors"],
        "cbam": ["authors", "timm"],
        "coord": ["timm"],
        "eca": ["timm"],
        "ese": ["timm"],
        "gc": ["timm"],
        "ge": ["timm"],
        "se": ["authors", "timm"],
    }
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(baselines(create_attention("cbam", 16))) == ["authors"]
    assert list(baselines(create_attention("eca", 16))) == []
