"""The network and the options are detected from the keys and shapes of a state dict."""

import pytest
import timm
import torch
from torchvision.models import wide_resnet50_2

from cbam_lightning.attention import SqueezeExcite, list_attention, registry
from cbam_lightning.errors import UsageError
from cbam_lightning.models import build
from cbam_lightning.models.layout_detection import detect_network
from cbam_lightning.weights import translate


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("stem", [3, 7])
@pytest.mark.parametrize("attention", ["CBAM", "BAM"])
def test_every_published_depth_is_detected(depth, stem, attention):
    network = f"resnet{depth}" + ("_cifar" if stem == 3 else "")
    built = meta(network, attention.lower(), {}, {}, 100, 3)
    found = detect_network(built)
    assert found == (network, attention.lower(), {}, {}, 100, 3)


def meta(*arguments):
    with torch.device("meta"):
        return build(*arguments).state_dict()


@pytest.mark.parametrize(
    ("network", "attention", "attention_options", "network_options"),
    [
        ("resnet18", "cbam", {"reduction": 8}, {}),
        ("resnet18", "cbam", {"kernel_size": 3}, {}),
        ("resnet18", "cbam", {"arrangement": "spatial"}, {}),
        ("resnet18", "cbam", {"arrangement": "channel", "reduction": 4}, {}),
        ("resnet18", "cbam", {"spatial_pool": "conv1x1"}, {}),
        ("resnet18", "cbam", {}, {"placement": "stage"}),
        ("resnet18", "bam", {"reduction": 8}, {}),
        ("resnet18", "bam", {}, {"placement": "block"}),
        ("resnet20", "se", {"reduction": 8}, {}),
        ("resnet18", "se", {"divisor": 8}, {}),
        ("resnet18", "se", {"reduction": 32, "divisor": 16}, {}),
        ("resnet18", "eca", {"kernel_size": 9}, {}),
        ("resnet18", "gc", {"reduction": 4}, {}),
        ("resnet18", "ge", {"excite": "mlp", "reduction": 4}, {}),
        ("resnet18", "mhsa", {"heads": 2}, {}),
        ("resnet18", "sca", {"reduction": 8}, {}),
        ("resnet18", "triplet", {"spatial": False, "kernel_size": 3}, {}),
        ("resnet20", "cbam", {"reduction": 64}, {}),
        ("resnext50_32x4d", "cbam", {}, {}),
        ("wide_resnet18_1.5", "se", {}, {}),
        ("resnet18", "none", {}, {"depths": [1, 1, 1], "widths": [8, 16, 32]}),
        ("resnet18", "none", {}, {"depths": [1, 2, 2, 1]}),
        ("resnet50_cifar", "cbam", {}, {"depths": [1, 1], "widths": [8, 16], "stem_width": 32}),
        ("resnet50", "none", {}, {"groups": 4, "width_per_group": 32}),
    ],
)
def test_options_are_read_off_the_shapes(network, attention, attention_options, network_options):
    arguments = (network, attention, attention_options, network_options, 7, 4)
    assert detect_network(meta(*arguments)) == arguments


@pytest.mark.parametrize("name", list_attention())
def test_every_attention_is_detected_and_without_parameters_none(name):
    state = meta("resnet8", name, {}, {}, 7, 4)
    has_values = any("attention" in key.split(".") for key in state)
    assert detect_network(state) == ("resnet8", name if has_values else "none", {}, {}, 7, 4)
    assert detect_network(state, attention=name) == ("resnet8", name, {}, {}, 7, 4)


def test_detection_draws_no_random_numbers():
    state = meta("resnet8", "se", {"reduction": 4}, {}, 7, 4)
    before = torch.get_rng_state()
    detect_network(state)
    assert torch.equal(torch.get_rng_state(), before)


class Twin(SqueezeExcite):
    """Has the keys of another attention."""


def test_attention_with_the_keys_of_another_is_asked_for(monkeypatch):
    state = meta("resnet8", "se", {}, {}, 7, 4)
    monkeypatch.setitem(registry._ATTENTION, "twin", registry.Attention(Twin))
    with pytest.raises(UsageError, match="may be se or twin: their keys are the same; give its name"):
        detect_network(state)
    assert detect_network(state, attention="twin").attention == "twin"


@pytest.mark.parametrize(
    ("attention", "options", "reason"),
    [
        (
            "cbam",
            {},
            r"layer1.0.attention has a gate of another design \(mlp.0.weight, mlp.0.bias, mlp.2.weight\)",
        ),
        (
            "se",
            {"reduction": 8},
            r"no options of se give .*layer1.0.attention: 16 channels, mlp.0.weight \(1, 16\)",
        ),
    ],
)
def test_a_name_or_option_that_does_not_fit_is_refused(attention, options, reason):
    state = meta("resnet8", "se", {}, {}, 7, 4)
    with pytest.raises(UsageError, match=reason):
        detect_network(state, attention=attention, attention_options=options)


def test_a_wide_bottleneck_of_torchvision_is_detected():
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    theirs = wide_resnet50_2(num_classes=3).double().eval()
    found = detect_network(theirs.state_dict())
    assert found.network_options == {"width_per_group": 128}
    ours = build(*found).double().eval()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(images), theirs(images))


def test_translated_keys_of_a_real_timm_network_are_detected_on_the_meta_device():
    with torch.device("meta"):
        theirs = timm.create_model("resnet101", block_args={"attn_layer": "cbam"}).state_dict()
    assert detect_network(translate(theirs)[1]) == ("resnet101", "cbam", {}, {}, 1000, 3)
