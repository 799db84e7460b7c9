"""The values of a checkpoint in a network."""

import re
import warnings

import pytest
import torch
from torch import nn

from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.weights import Header, load_into, save_checkpoint

OPTIONS = {"depths": [1, 1, 1], "widths": [4, 8, 16]}


class Small(nn.Module):
    """Two layers and a classifier."""

    def __init__(self, seed, num_classes=3, width=4):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, width, 3)
        self.module = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)
        for value in (*self.module.parameters(), self.module.running_mean, self.module.running_var):
            nn.init.uniform_(value)
        self.module.num_batches_tracked += seed


def snapshot(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def changed(network, before):
    return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}


def test_everything_that_fits_is_loaded():
    network, other = Small(1), Small(2)
    report = load_into(network, other.state_dict())
    assert not changed(network, other.state_dict())
    assert report.matched == tuple(network.state_dict())
    assert (report.missing, report.unexpected, report.reshaped) == ((), (), {})


def test_the_values_are_copied_not_shared():
    network, other = Small(1), Small(2)
    load_into(network, other.state_dict())
    before = snapshot(network)
    other.fc.weight.data.zero_()
    assert not changed(network, before)


def test_a_classifier_for_other_classes_stays_as_it_was():
    network, other = Small(1, num_classes=5), Small(2)
    before = snapshot(network)
    report = load_into(network, other.state_dict())
    assert not {"fc.weight", "fc.bias"} & changed(network, before)
    assert changed(network, other.state_dict() | {k: before[k] for k in ("fc.weight", "fc.bias")}) == set()
    assert report.reshaped == {"fc.weight": ((5, 4), (3, 4)), "fc.bias": ((5,), (3,))}
    assert "reshaped: fc.weight is (5, 4) here and (3, 4) in the checkpoint" in str(report)


def test_a_classifier_that_fits_can_be_left_out():
    network, other = Small(1), Small(2)
    before = snapshot(network)
    report = load_into(network, other.state_dict(), load_head=False)
    assert report.missing == ("fc.weight", "fc.bias")
    assert not {"fc.weight", "fc.bias"} & changed(network, before)
    assert {key for key in before if key not in changed(network, before)} == {"fc.weight", "fc.bias"}
    assert changed(network, other.state_dict()) == {"fc.weight", "fc.bias"}


def test_the_classifier_may_have_another_name():
    network, other = Small(1), Small(2, num_classes=5)
    state = {key.replace("fc.", "head."): value for key, value in other.state_dict().items()}
    network.head = network.fc
    del network.fc
    assert set(load_into(network, state, head="head").reshaped) == {"head.weight", "head.bias"}
    with pytest.raises(UsageError, match=r"some keys do not fit \(head\.weight, head\.bias\)"):
        load_into(network, state, head="fc")
    assert set(load_into(network, state).reshaped) == {"head.weight", "head.bias"}


def lacking(state):
    del state["conv.bias"]
    return state


def reshaped(state):
    return state | {"conv.weight": torch.ones(4, 1, 5, 5)}


def unexpected(state):
    return state | {"attention.weight": torch.ones(1)}


FAULTS = [(lacking, "conv.bias"), (reshaped, "conv.weight"), (unexpected, "attention.weight")]


@pytest.mark.parametrize(("spoil", "key"), FAULTS)
def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(spoil, key):
    network = Small(1)
    before = snapshot(network)
    state = spoil(snapshot(Small(2)))
    with pytest.raises(
        UsageError, match=rf"^run.ckpt belongs to another network: some keys do not fit \({key}\)"
    ) as caught:
        load_into(network, state, source="run.ckpt")
    assert "strict_weights=False" in str(caught.value)
    assert not changed(network, before)


@pytest.mark.parametrize(("spoil", "key"), FAULTS)
def test_not_strict_loads_what_fits(spoil, key):
    network, other = Small(1), Small(2)
    before = snapshot(network)
    report = load_into(network, spoil(snapshot(other)), strict=False)
    kept = {key} & set(before)
    assert changed(network, other.state_dict()) == kept
    assert changed(network, before) == set(before) - kept
    assert key in (*report.missing, *report.unexpected, *report.reshaped)
    assert key in str(report)


def test_a_checkpoint_of_which_nothing_fits_is_refused_even_if_not_strict():
    network = Small(1)
    before = snapshot(network)
    for state in ({}, {"other.weight": torch.ones(1)}, {"conv.bias": torch.ones(7)}):
        with pytest.raises(UsageError, match="belongs to another network"):
            load_into(network, state, strict=False)
    assert not changed(network, before)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_wrappers_in_front_of_every_key_are_stripped(prefix):
    network, other = Small(1), Small(2)
    report = load_into(network, {prefix + key: value for key, value in other.state_dict().items()})
    assert not changed(network, other.state_dict())
    # a layer of the network itself is called like a wrapper
    assert "module.weight" in report.matched


@pytest.mark.parametrize("spelling", ["module_", "xmodule.", "backbone.module.", "_orig_mod"])
def test_what_only_looks_like_a_wrapper_stays(spelling):
    state = {spelling + key: value for key, value in Small(2).state_dict().items()}
    with pytest.raises(UsageError, match="another network"):
        load_into(Small(1), state, strict=False)


def test_a_wrapper_in_front_of_some_keys_stays():
    network = Small(1)
    state = {("module." if key == "conv.bias" else "") + key: v for key, v in Small(2).state_dict().items()}
    report = load_into(network, state, strict=False)
    assert report.missing == ("conv.bias",)
    assert report.unexpected == ("module.conv.bias",)


def test_a_long_list_of_faults_is_cut():
    state = {f"x{i}": torch.ones(1) for i in range(50)} | Small(2).state_dict()
    with pytest.raises(UsageError, match=r"some keys do not fit \(x0, x1, x2, x3, … \(50 in all\)\)"):
        load_into(Small(1), state)
    assert "unexpected: x0, x1, x2, x3, … (50 in all)" in str(load_into(Small(1), state, strict=False))


def trained(num_classes=3, attention="cbam"):
    """A network whose every value differs from those of a fresh one."""
    torch.manual_seed(3)
    network = create_model("resnet20", attention=attention, num_classes=num_classes, in_channels=1, **OPTIONS)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(params=["run.safetensors", "run.ckpt"])
def weights(request, tmp_path):
    header = Header("resnet20", "cbam", 3, 1, network_options=OPTIONS, class_names=("a", "b", "c"))
    path = tmp_path / request.param
    state = trained().state_dict()
    if path.suffix == ".safetensors":
        save_checkpoint(path, state, header)
    else:
        plain = {name: getattr(header, name) for name in ("network", "attention", "network_options")}
        torch.save(
            {
                "state_dict": {f"network.{key}": value for key, value in state.items()},
                "hyper_parameters": plain | {"num_classes": 3, "in_channels": 1},
            },
            path,
        )
    return path


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_file_alone_gives_the_same_logits(weights, images):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        network = create_model(weights=weights).eval()
        assert torch.equal(network(images), trained()(images))


def test_other_classes_give_a_warning_and_a_new_classifier(weights, images):
    with pytest.warns(UserWarning, match="has 3 classes.*the network has 7: the classifier"):
        network = create_model(weights=weights, num_classes=7).eval()
    reference = trained()
    with torch.no_grad():
        assert torch.equal(network.forward_features(images), reference.forward_features(images))
        assert network(images).shape == (2, 7)
    assert network.fc.bias.abs().max() == 0
    assert network.fc.weight.std() > 0


def test_another_attention_is_refused_unless_what_fits_is_asked_for(weights, images):
    with pytest.raises(UsageError, match=rf"^{weights} belongs to another network"):
        create_model(weights=weights, attention="none")
    network = create_model(weights=weights, attention="none", strict_weights=False).eval()
    assert torch.equal(network.layer1[0].conv1.weight, trained().layer1[0].conv1.weight)


def test_another_network_is_refused(weights):
    with pytest.raises(UsageError, match="belongs to another network"):
        create_model("resnet32", weights=weights)


@pytest.fixture
def plain_weights(tmp_path):
    path = tmp_path / "plain.safetensors"
    state = trained(attention="none").state_dict()
    save_checkpoint(path, state, Header("resnet20", "none", 3, 1, network_options=OPTIONS))
    return path


def test_new_attention_is_reported_and_nothing_else_may_be_missing():
    network = create_model("resnet20", attention="cbam", num_classes=3, in_channels=1, **OPTIONS)
    state = trained(attention="none").state_dict()
    report = load_into(network, state, new_attention=True)
    assert report.missing == ()
    assert set(report.added) == set(network.state_dict()) - set(state)
    assert f"new attention {len(report.added)}" in str(report)
    with pytest.raises(UsageError, match="belongs to another network"):
        load_into(network, state)
    del state["layer2.0.bn1.weight"]
    with pytest.raises(UsageError, match=r"some keys do not fit .*layer2\.0\.bn1\.weight"):
        load_into(network, state, new_attention=True)


def test_identity_attention_added_to_plain_weights_keeps_the_logits(plain_weights, images):
    options = {"gate": "identity"}
    network = create_model(weights=plain_weights, attention="cbam", attention_options=options).eval()
    with torch.no_grad():
        assert torch.equal(network(images), trained(attention="none")(images))
    sigmoid = create_model(weights=plain_weights, attention="cbam").eval()
    with torch.no_grad():
        assert not torch.allclose(sigmoid(images), network(images))


def test_the_classifier_is_found_by_what_the_network_returns_as_such():
    class Renamed(Small):
        def __init__(self, seed, **options):
            super().__init__(seed, **options)
            self.tail = nn.Sequential(nn.Identity(), self.fc)
            del self.fc

        def get_classifier(self):
            return self.tail[1]

    report = load_into(Renamed(1, num_classes=5), Renamed(2).state_dict())
    assert set(report.reshaped) == {"tail.1.weight", "tail.1.bias"}


def test_weights_are_not_used_with_other_strides(tmp_path):
    path = tmp_path / "net.safetensors"
    options = {"depths": [1, 1], "widths": [4, 8], "stem": "cifar"}
    network = create_model("resnet50", num_classes=3, **options)
    save_checkpoint(path, network.state_dict(), Header("resnet50", "none", 3, 3, network_options=options))
    for given in ({}, {"stride_in": "3x3", "stem": "cifar"}, {"attention": "se"}):
        create_model(weights=path, **given)
    for name, trained, other in (("stride_in", "3x3", "1x1"), ("stem", "cifar", "stride2")):
        with pytest.raises(UsageError, match=f"trained with {name} '{trained}', not '{other}'"):
            create_model(weights=path, **{name: other})


@pytest.mark.parametrize(
    ("name", "trained", "other"),
    [("resnet8", "cifar", "stride2"), ("mobilenet_v1", "imagenet", "cifar")],
)
def test_the_stem_of_a_named_network_is_that_of_its_weights(name, trained, other, tmp_path):
    path = tmp_path / "net.safetensors"
    options = {"width_multiplier": 0.1} if "mobilenet" in name else {"widths": [4, 4, 4]}
    network = create_model(name, num_classes=3, **options)
    save_checkpoint(path, network.state_dict(), Header(name, "none", 3, 3, network_options=options))
    create_model(weights=path, stem=trained)
    with pytest.raises(UsageError, match=f"trained with stem '{trained}', not '{other}'"):
        create_model(weights=path, stem=other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    network, other = Small(1), Small(2)
    before = snapshot(network)
    other.conv.weight.data[0] = value
    with pytest.raises(UsageError, match=r"a\.ckpt holds NaN or Inf in 1 of 9 tensors \(conv\.weight\)"):
        load_into(network, other.state_dict(), source="a.ckpt")
    assert not changed(network, before)


def test_a_mask_of_minus_infinity_is_no_fault():
    network, other = Small(1), Small(2)
    for one in (network, other):
        one.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    assert "mask" in load_into(network, other.state_dict()).matched


def test_attention_saved_after_a_list_of_modules_is_found_after_its_last_one():
    """Version 0.1 made the attention after a stage the last module of the stage's list."""
    network = create_model("torchvision/resnet18", attention="bam", num_classes=5)
    saved = {}
    for key, value in network.state_dict().items():
        former = re.sub(r"(layer\d)\.\d\.attention\.", r"\1.attention.", key)
        saved[former] = torch.randn_like(value) if value.is_floating_point() else value
    assert {key.split(".attention.")[0] for key in saved if ".attention." in key} == {
        "relu",
        *(f"layer{stage}" for stage in (1, 2, 3, 4)),
    }
    assert len(load_into(network, saved).matched) == len(saved)
    attention = network.layer3[1].attention.state_dict()
    assert all(torch.equal(value, saved[f"layer3.attention.{key}"]) for key, value in attention.items())
