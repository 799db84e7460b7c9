"""MobileNet v1 against a literal forward pass over its state dict."""

import pytest
import torch
from torch.nn import functional as F

from cbam_lightning.attention import CBAM, list_attention
from cbam_lightning.attention.registry import option_names
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.mobilenet import ConvUnit, MobileNet

# Table 1 of https://arxiv.org/abs/1704.04861: block, channels in and out, stride of the depthwise part.
BLOCKS = [
    ("layer1.0", 32, 64, 1),
    ("layer2.0", 64, 128, 2),
    ("layer2.1", 128, 128, 1),
    ("layer3.0", 128, 256, 2),
    ("layer3.1", 256, 256, 1),
    ("layer4.0", 256, 512, 2),
    *((f"layer4.{index}", 512, 512, 1) for index in range(1, 6)),
    ("layer5.0", 512, 1024, 2),
    ("layer5.1", 1024, 1024, 1),
]
UNITS = ["stem", *(f"{name}.{part}" for name, *_ in BLOCKS for part in ("depthwise", "pointwise"))]


def small(attention="cbam", **options):
    options = {"width_multiplier": 0.25, "stem": "cifar", "num_classes": 5} | options
    return MobileNet(attention=attention, **options)


def randomise(module):
    """Give every parameter and statistic a value that no initialisation gives."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith("running_mean") or (value.is_floating_point() and value.dim() == 1):
            value.normal_(0.5, 0.2)
    return module


def unit(weights, name, x, stride, groups, padding, gate):
    x = F.conv2d(x, weights[f"{name}.conv.weight"], None, stride, padding, groups=groups)
    statistics = (weights[f"{name}.bn.running_mean"], weights[f"{name}.bn.running_var"])
    x = F.batch_norm(x, *statistics, weights[f"{name}.bn.weight"], weights[f"{name}.bn.bias"], eps=1e-5)
    return gate(name, x.clamp(min=0))


def literal(weights, x, stem_stride, gate):
    x = unit(weights, "stem", x, stem_stride, 1, 1, gate)
    for name, _, _, stride in BLOCKS:
        x = unit(weights, f"{name}.depthwise", x, stride, x.shape[1], 1, gate)
        x = unit(weights, f"{name}.pointwise", x, 1, 1, 0, gate)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def squeeze_excite(weights):
    def gate(name, x):
        hidden = x.mean((2, 3)) @ weights[f"{name}.attention.mlp.0.weight"].T
        hidden = (hidden + weights[f"{name}.attention.mlp.0.bias"]).clamp(min=0)
        logits = hidden @ weights[f"{name}.attention.mlp.2.weight"].T
        return x / (1 + (-logits - weights[f"{name}.attention.mlp.2.bias"]).exp())[:, :, None, None]

    return gate


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 2), ("cifar", 1)])
@pytest.mark.parametrize("attention", ["none", "se"])
def test_logits_equal_the_literal_network(stem, stride, attention):
    torch.manual_seed(0)
    network = randomise(small(attention, stem=stem)).double().eval()
    weights = network.state_dict()
    x = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    gate = squeeze_excite(weights) if attention == "se" else lambda _, x: x
    torch.testing.assert_close(network(x), literal(weights, x, stride, gate), rtol=1e-10, atol=1e-10)


def test_has_the_28_layers_of_the_paper():
    with torch.device("meta"):
        weights = create_model("mobilenet_v1").state_dict()
    expected = {"stem.conv.weight": (32, 3, 3, 3), "fc.weight": (1000, 1024)}
    for name, channels, out_channels, _ in BLOCKS:
        expected[f"{name}.depthwise.conv.weight"] = (channels, 1, 3, 3)
        expected[f"{name}.pointwise.conv.weight"] = (out_channels, channels, 1, 1)
    assert {key: tuple(value.shape) for key, value in weights.items() if value.dim() > 1} == expected
    assert len(expected) == 28


# Channels rounded down, at least 8: `depth = lambda d: max(int(d * depth_multiplier), min_depth)` of
# https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet_v1.py
@pytest.mark.parametrize(
    ("multiplier", "channels"),
    [
        (0.7, [22, 44, 89, 179, 358, 716]),
        (0.75, [24, 48, 96, 192, 384, 768]),
        (0.1, [8, 8, 12, 25, 51, 102]),
        (2, [64, 128, 256, 512, 1024, 2048]),
    ],
)
def test_width_multiplier_rounds_down(multiplier, channels):
    with torch.device("meta"):
        network = MobileNet(width_multiplier=multiplier)
    assert [network.stem.out_channels, *network.stage_channels.values()] == channels
    assert network.num_features == channels[-1]


class TestPlacement:
    def test_attention_follows_each_of_the_27_units(self):
        network = small().eval()
        calls = []
        for name, module in network.named_modules():
            if isinstance(module, CBAM):
                module.register_forward_hook(lambda m, x, y, name=name: calls.append((name, x[0])))
        network(torch.randn(2, 3, 32, 32))
        assert [name for name, _ in calls] == [f"{name}.attention" for name in UNITS]
        assert len(calls) == 27
        assert all((x >= 0).all() for _, x in calls)  # after the ReLU

    def test_bam_comes_before_every_stride_but_the_stems(self):
        network = small("bam").eval()
        order = []
        for name, module in network.named_modules():
            if name.startswith("attention.") and name.count(".") == 1:
                module.register_forward_hook(lambda m, x, y, name=name: order.append(name))
            if isinstance(module, ConvUnit) and module.conv.stride == (2, 2):
                module.register_forward_hook(lambda m, x, y: order.append("stride"))
        network(torch.randn(2, 3, 32, 32))
        assert order == [name for stage in (1, 2, 3, 4) for name in (f"attention.layer{stage}", "stride")]


@pytest.mark.parametrize("attention", list_attention())
def test_every_parameter_receives_a_gradient(attention):
    torch.manual_seed(0)
    options = {"reduction": 2} if "reduction" in option_names(attention) else {}
    network = randomise(small(attention, attention_options=options))
    F.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert ".attention." in f".{name}" or parameter.grad.abs().sum() > 0, name
    # some of attention have none on such small maps; its own tests name them
    for module in network.modules():
        if hasattr(module, "gate_maps") and list(module.parameters()):
            assert any(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


class TestInitialValues:
    @pytest.mark.parametrize("attention", [name for name in list_attention() if name != "none"])
    def test_backbone_is_the_same_with_and_without_attention(self, attention):
        torch.manual_seed(7)
        plain = small("none").state_dict()
        torch.manual_seed(7)
        attended = small(attention).state_dict()
        assert plain.keys() <= attended.keys()
        for key, value in plain.items():
            assert torch.equal(value, attended[key]), key

    def test_are_those_of_resnet(self):
        torch.manual_seed(0)
        network = MobileNet()
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 4000:
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
            if isinstance(module, torch.nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
        assert network.fc.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.01)
        assert (network.fc.bias == 0).all()


def test_surface():
    network = small().double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    features = network.forward_features(x)
    assert features.shape == (2, network.num_features, 2, 2) == (2, 256, 2, 2)
    pooled = features.sum((2, 3)) / 4
    torch.testing.assert_close(network.forward_head(features, pre_logits=True), pooled)
    torch.testing.assert_close(network(x), pooled @ network.fc.weight.T + network.fc.bias)
    assert network.get_classifier() is network.fc
    network.reset_classifier(7)
    assert network(x).shape == (2, network.num_classes) == (2, 7)  # the new layer is float64 as well
    network.reset_classifier(0)
    torch.testing.assert_close(network(x), pooled)


def test_images_may_have_other_channels():
    network = small(in_channels=1)
    assert network.in_channels == 1
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_multiplier": 0}, r"width_multiplier is 0; give a number above 0"),
        ({"width_multiplier": float("nan")}, "width_multiplier is nan"),
        ({"width_multiplier": "wide"}, "width_multiplier is 'wide'"),
        ({"width_multiplier": True}, "width_multiplier is True"),
        ({"stem": "tiny"}, "unknown stem 'tiny'. Allowed: cifar, imagenet"),
        ({"placement": "blocks"}, "unknown placement 'blocks'"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"attention": "cbma"}, "unknown attention 'cbma'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        small(**options)
