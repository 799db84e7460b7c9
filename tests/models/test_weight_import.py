"""Files of other code become files of ours, or are refused with the reason."""

import re
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import EcaModule, GatherExcite, GlobalContext, SEModule
from timm.layers.cbam import CbamModule
from torchvision.models import densenet121, resnet18, squeezenet1_1

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.weight_import import import_weights
from cbam_lightning.weights import load_checkpoint
from tests.weights import layouts


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def as_authors_save(state_dict, **changes):
    return {
        "epoch": 90,
        "arch": "resnet50",
        "state_dict": {f"module.{key}": value for key, value in state_dict.items()},
        "best_prec1": torch.tensor(77.622),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    } | changes


def imported(tmp_path, state, **options):
    torch.save(state, tmp_path / "theirs.pth.tar")
    return import_weights(tmp_path / "theirs.pth.tar", tmp_path / "ours.safetensors", **options)


def logits(tmp_path, images):
    network = create_model(weights=tmp_path / "ours.safetensors").double().eval()
    with torch.no_grad():
        return network(images)


def close(ours, theirs):
    assert theirs.std() > 1e-2
    # the file holds float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stem", [3, 7])
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("attention", ["CBAM", "BAM", "channel", "none"])
def test_a_file_of_the_authors_gives_the_same_logits(tmp_path, images, attention, bottleneck, stem):
    raw = layouts.authors(attention, bottleneck=bottleneck, stem=stem)
    raw = {key: value.float().double() if value.is_floating_point() else value for key, value in raw.items()}
    header, report = imported(tmp_path, as_authors_save(raw))
    close(logits(tmp_path, images), layouts.authors_forward(raw, images))
    name = {"CBAM": "cbam", "channel": "cbam"}.get(attention, attention.lower())
    assert header.attention == name
    assert header.attention_options == ({"arrangement": "channel"} if attention == "channel" else {})
    assert header.metrics == {"reported/top1": pytest.approx(0.77622)}
    assert load_checkpoint(tmp_path / "ours.safetensors").header == header
    assert "missing 0, unexpected 0, reshaped 0" in report


@pytest.mark.parametrize("names", [("fc1", "fc2"), ("fc.0", "fc.2")])
def test_a_file_of_luuuyi_gives_the_same_logits(tmp_path, images, names):
    raw = layouts.luuuyi(names)
    raw = {key: value.float().double() if value.is_floating_point() else value for key, value in raw.items()}
    _, report = imported(tmp_path, raw)
    theirs = layouts.resnet_forward(
        raw, images, lambda block, y: layouts.luuuyi_forward(raw, f"{block}.", y, names)
    )
    close(logits(tmp_path, images), theirs)
    assert "luuuyi/CBAM.PyTorch" in report


def timm_network(name, **options):
    """A network of timm with random values that no initialisation has."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, **options).eval()
    for key, value in network.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1 and value.is_floating_point():
            value.uniform_(-0.5, 0.5)
    return network


@pytest.mark.usefixtures("gather_excite_of_timm")
@pytest.mark.parametrize(
    ("name", "layer", "attention", "options"),
    [
        ("resnet18", None, "none", {}),
        ("resnet50", "cbam", "cbam", {}),
        ("resnet50", "eca", "eca", {}),
        ("seresnet18", None, "se", {"divisor": 8}),
        ("seresnet50", None, "se", {}),
        ("resnet18", "se", "se", {"divisor": 8}),
        ("resnet18", partial(SEModule, rd_ratio=0.25), "se", {"reduction": 4}),
        ("resnet18", partial(SEModule, bias=False), "se", {"divisor": 8}),
        ("resnet18", lambda channels, **_: EcaModule(kernel_size=7), "eca", {"kernel_size": 7}),
        (
            "resnet18",
            partial(CbamModule, spatial_kernel_size=3, rd_ratio=1 / 8),
            "cbam",
            {"reduction": 8, "kernel_size": 3},
        ),
        ("resnet18", partial(CbamModule, mlp_bias=True), "cbam", {}),
        ("resnet18", "ese", "ese", {}),
        ("resnet50", "gc", "gc", {"reduction": 8, "fusion": "scale", "eps": 1e-6}),
        ("resnet18", "gca", "gc", {"reduction": 8, "eps": 1e-6}),
        ("resnet18", "ge", "ge", {"excite": "mlp"}),
        (
            "resnet18",
            partial(GatherExcite, extra_params=True, extent=4),
            "ge",
            {"excite": "mlp", "gather": "conv", "extent": 4},
        ),
        (
            "resnet18",
            partial(GatherExcite, extra_params=True, extent=8, use_mlp=False),
            "ge",
            {"gather": "conv", "extent": 8},
        ),
    ],
)
def test_a_network_of_timm_gives_the_same_logits(tmp_path, images, name, layer, attention, options):
    given = {"block_args": {"attn_layer": layer}} if layer else {}
    theirs = timm_network(name, layers=(1, 2, 1, 1), **given)
    header, _ = imported(tmp_path, theirs.state_dict())
    assert (header.attention, header.attention_options) == (attention, options)
    with torch.no_grad():
        ours, expected = logits(tmp_path, images), theirs.double()(images)
    assert expected.std() > 1e-2
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("gather_excite_of_timm")
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            "ecam",
            r"layer1.0.se.conv2.weight belongs to attention of timm that is not here: here are its se, ese",
        ),
        ("lcbam", r"layer1.0.se.spatial.conv.conv.weight belongs .*: lcbam adds its pools"),
        ("scoord", "layer1.0.se.fc_h.weight belongs"),
        ("ela", "layer1.0.se.conv_h.weight belongs"),
        ("strip", "layer1.0.se.conv_h.weight belongs"),
        ("coord", "layer1.0.se.bn1.weight belongs"),
        (partial(GlobalContext, fuse_add=True), "two keys, one of them .*mlp_scale.*, become our"),
        (partial(GlobalContext, use_attn=False), r"gate of another design \(mlp.fc1.weight"),
        (partial(SEModule, norm_layer=torch.nn.BatchNorm2d), "layer1.0.se.bn.weight belongs"),
        (
            partial(GatherExcite, extra_params=True, feat_size=7),
            "global convolution of ge slides over padding",
        ),
    ],
)
def test_attention_of_timm_that_is_not_ours_is_refused(tmp_path, layer, reason):
    theirs = timm_network("resnet18", layers=(1, 1, 1, 1), block_args={"attn_layer": layer})
    with pytest.raises(UsageError, match=reason):
        imported(tmp_path, theirs.state_dict())


@pytest.mark.parametrize("name", ["legacy_seresnet18", "ecaresnet50d", "gcresnet50t", "regnety_002"])
def test_another_network_of_timm_is_refused(tmp_path, name):
    with torch.device("meta"):
        keys = timm.create_model(name).state_dict()
    with pytest.raises(UsageError, match="timm/NAME"):
        imported(tmp_path, {key: torch.zeros(value.shape) for key, value in keys.items()})


def test_an_option_that_is_not_tried_can_be_given(tmp_path):
    theirs = timm_network(
        "resnet18", layers=(1, 1, 1, 1), block_args={"attn_layer": partial(EcaModule, gamma=1)}
    )
    with pytest.raises(UsageError, match=r"no options of eca .*512 channels, conv.weight \(1, 1, 11\)"):
        imported(tmp_path, theirs.state_dict())
    header, _ = imported(tmp_path, theirs.state_dict(), attention_options={"gamma": 1})
    assert (header.attention, header.attention_options) == ("eca", {"gamma": 1})


def test_what_no_value_shows_is_said(tmp_path):
    _, report = imported(tmp_path, timm_network("seresnet18").state_dict())
    assert "assumed, since no value shows it: timm's defaults" in report


def test_what_leaves_no_trace_can_be_given(tmp_path):
    header, _ = imported(
        tmp_path,
        layouts.authors("CBAM", bottleneck=True, stem=7),
        attention_options={"pools": ["avg"]},
        network_options={"stride_in": "1x1"},
        dataset="cifar10",
        class_names=[str(i) for i in range(10)],
    )
    assert header.attention_options == {"pools": ["avg"]}
    assert header.network_options["stride_in"] == "1x1"
    assert (header.dataset, header.class_names[9]) == ("cifar10", "9")


def test_a_thousand_classes_mean_images_as_of_imagenet(tmp_path):
    header, _ = imported(tmp_path, resnet18().state_dict())
    assert (header.network, header.num_classes, header.size_px) == ("resnet18", 1000, 224)
    assert header.mean == (0.485, 0.456, 0.406)
    assert header.std == (0.229, 0.224, 0.225)


def test_the_moving_average_is_preferred_and_named(tmp_path):
    ema = layouts.authors("CBAM")
    raw = {key: torch.zeros_like(value) for key, value in ema.items()}
    header, _ = imported(tmp_path, {"state_dict": raw, "state_dict_ema": ema})
    assert header.averaged
    weight = load_checkpoint(tmp_path / "ours.safetensors").state_dict["fc.weight"]
    assert torch.equal(weight, ema["fc.weight"].float())


@pytest.mark.parametrize("name", ["theirs.safetensors", "theirs.pth", "theirs.bin"])
def test_other_files_are_read_too(tmp_path, name):
    raw = layouts.authors("CBAM")
    (save_file if name.endswith("safetensors") else torch.save)(raw, tmp_path / name)
    header, _ = import_weights(tmp_path / name, tmp_path / "ours.safetensors")
    assert header.attention == "cbam"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: s.pop("layer2.1.bn1.bias"), "missing: layer2.1.bn1.bias"),
        (lambda s: s.pop("fc.bias"), "missing: fc.bias"),
        (lambda s: s.pop("conv1.weight"), "conv1.weight is missing"),
        (lambda s: s.pop("layer1.0.cbam.ChannelGate.mlp.3.bias"), "gate of another design"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda s: s.update({"fc.bias": torch.ones(4)}),
            r"fc.bias is \(10,\) here and \(4,\)",
        ),
        (lambda s: s.update({"layer1.0.conv2.weight": torch.ones(16)}), "layer1.0.conv2.weight is"),
        (lambda s: s.update({"conv1.weight": torch.ones(())}), "conv1.weight is of shape"),
        (lambda s: s.update({"rpn.head.weight": torch.ones(1)}), "object detector"),
        (lambda s: s.update({"fc.weight": 3}), "'fc.weight' is a int, not a tensor"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, spoil, reason):
    raw = layouts.authors("CBAM")
    spoil(raw)
    with pytest.raises(UsageError, match=reason) as caught:
        imported(tmp_path, {"state_dict": raw})
    assert str(caught.value).startswith(str(tmp_path / "theirs.pth.tar"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_attention_of_another_design_is_refused(tmp_path):
    state = resnet18().state_dict()
    state |= {f"layer{n}.{i}.attention.gate.weight": torch.ones(1) for n in range(1, 5) for i in range(2)}
    with pytest.raises(UsageError, match=r"layer1.0.attention has a gate of another design \(gate.weight\)"):
        imported(tmp_path, state)


def test_hidden_layers_of_no_one_ratio_are_refused(tmp_path):
    state = timm.create_model("seresnet18").state_dict()
    for key in ("fc1.weight", "fc1.bias"):
        state[f"layer1.0.se.{key}"] = state[f"layer1.0.se.{key}"][:5]
    state["layer1.0.se.fc2.weight"] = state["layer1.0.se.fc2.weight"][:, :5]
    with pytest.raises(UsageError, match=r"no options of se give .*layer1.0.*: 64 channels, .*\(5, 64\)"):
        imported(tmp_path, state)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    torch.save(as_authors_save(layouts.authors("CBAM")), tmp_path / "a.pth.tar")
    content = (tmp_path / "a.pth.tar").read_bytes()
    (tmp_path / "a.pth.tar").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match="truncated or damaged"):
        import_weights(tmp_path / "a.pth.tar", tmp_path / "ours.safetensors")


@pytest.mark.parametrize("content", [3, [torch.ones(1)], {}, {"state_dict": {}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="state dict"):
        imported(tmp_path, content)


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "ours.safetensors").write_text("mine")
    with pytest.raises(UsageError, match=r"ours.safetensors exists; remove it"):
        imported(tmp_path, layouts.authors("CBAM"))
    assert (tmp_path / "ours.safetensors").read_text() == "mine"


@pytest.mark.parametrize("percent", [float("nan"), -1, 101, "77", None, True])
def test_an_accuracy_that_cannot_be_one_is_left_out(tmp_path, percent):
    header, _ = imported(tmp_path, {"state_dict": layouts.authors("none"), "best_prec1": percent})
    assert header.metrics == {}


def test_a_given_network_has_to_fit(tmp_path):
    with pytest.raises(UsageError, match=re.escape("not those of resnet34 with attention cbam")):
        imported(tmp_path, layouts.authors("CBAM"), network="resnet34")


@pytest.mark.parametrize(
    ("network", "make"),
    [
        ("torchvision/densenet121", lambda: densenet121(num_classes=4)),
        ("torchvision/squeezenet1_1", lambda: squeezenet1_1(num_classes=4)),
        ("timm/test_resnet", lambda: timm.create_model("test_resnet", num_classes=4)),
    ],
)
def test_a_network_of_a_library_keeps_its_keys(tmp_path, images, network, make):
    torch.manual_seed(0)
    theirs = make().eval()
    header, _ = imported(tmp_path, theirs.state_dict(), network=network)
    assert (header.network, header.attention, header.num_classes) == (network, "none", 4)
    with torch.no_grad():
        close(logits(tmp_path, images), theirs.double()(images))


def test_a_network_of_a_library_has_to_fit(tmp_path):
    with pytest.raises(UsageError, match=r"missing: features.conv0.weight.*; unexpected: conv1.weight"):
        imported(tmp_path, layouts.authors("CBAM"), network="torchvision/densenet121")
    assert not (tmp_path / "ours.safetensors").exists()


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


CONTAINERS = ("net", "model", "network", "module", "model_state_dict", "weights")


@pytest.mark.parametrize(
    ("wrap", "averaged"),
    [
        *(
            (lambda s, name=name: {name: s, "epoch": 3}, False)
            for name in ("net", "model", "network", "module")
        ),
        *((lambda s, name=name: {name: s, "acc": 0.5}, False) for name in ("model_state_dict", "weights")),
        (lambda s: {"ema": {"module": s}, "model": {"x": torch.ones(1)}}, True),
        (lambda s: {"ema": {"decay": 0.9}, "model": s}, False),
        (lambda s: {"model": {"state_dict": s}}, False),
        *((lambda s, p=p: prefixed(s, p), False) for p in ("model.", "net.", "backbone.", "network.")),
        (lambda s: {"state_dict": prefixed(s, "module._orig_mod.model.backbone.")}, False),
        (lambda s: {"state_dict": prefixed(s, "model.") | {"criterion.weight": torch.ones(10)}}, False),
    ],
)
def test_the_wrappers_of_other_code_are_removed(tmp_path, wrap, averaged):
    raw = layouts.authors("CBAM")
    header, report = imported(tmp_path, wrap(raw))
    assert header.averaged is averaged
    assert ("criterion.weight" in report) == ("left out" in report)
    weight = load_checkpoint(tmp_path / "ours.safetensors").state_dict["fc.weight"]
    assert torch.equal(weight, raw["fc.weight"].float())


def test_a_wrapped_network_of_a_library_keeps_the_keys_inside(tmp_path):
    torch.manual_seed(0)
    theirs = squeezenet1_1(num_classes=4).state_dict()
    state = {"state_dict": prefixed(theirs, "model.") | {"loss.weight": torch.ones(7, 7)}}
    header, report = imported(tmp_path, state, network="torchvision/squeezenet1_1")
    assert header.num_classes == 4
    assert "left out, beside the network: loss.weight" in report


def test_a_file_without_a_network_names_its_keys(tmp_path):
    with pytest.raises(UsageError, match=r"holds no tensor, and these keys: epoch, optimizer\."):
        imported(tmp_path, {"epoch": 3, "optimizer": {"lr": 0.1}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "bn1.running_var"])
def test_weights_of_a_training_that_diverged_are_refused(tmp_path, key, value):
    raw = layouts.authors("CBAM")
    raw[key].view(-1)[1] = value
    with pytest.raises(UsageError, match=rf"holds NaN or Inf in 1 of \d+ tensors \({key}\).*diverged"):
        imported(tmp_path, raw)
    assert not (tmp_path / "ours.safetensors").exists()
