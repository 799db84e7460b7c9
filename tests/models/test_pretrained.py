"""Weights by the names of the libraries that publish them, and by ours."""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.models import _builder

from cbam_lightning.errors import UsageError
from cbam_lightning.models import build, create_model
from cbam_lightning.models.pretrained import _plain_values_only, open_checkpoint
from cbam_lightning.models.registry import MODELS
from cbam_lightning.weights import Header, checkpoint_registry, save_checkpoint
from experiments.shipping.registering import make_entry
from tests.weights.serving import serve, without_proxies

ENTRY = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(monkeypatch):
    without_proxies(monkeypatch)
    with serve() as server:
        yield server


def resnet18(seed=0):
    torch.manual_seed(seed)
    return torchvision.models.resnet18().eval()


def publish(server, monkeypatch, state_dict, entry=ENTRY, name="resnet18", sha256=None):
    """Serve a state dict where the entry says that its weights are."""
    content = io.BytesIO()
    torch.save(state_dict, content)
    digest = sha256 or hashlib.sha256(content.getvalue()).hexdigest()
    file = f"{name}-{digest[:8]}.pth"
    server.files[file] = content.getvalue()
    monkeypatch.setattr(entry.value, "url", server.url + file)
    return file


@pytest.mark.parametrize("network", ["resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT"])
def test_weights_of_torchvision_are_downloaded_once(server, monkeypatch, cache, network, name):
    theirs = resnet18()
    file = publish(server, monkeypatch, theirs.state_dict())
    for _ in range(2):
        checkpoint = open_checkpoint(name, network)
    assert server.asked == [file]
    assert [path.name for path in cache.iterdir()] == [file]
    state = checkpoint.state_dict
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())
    header = checkpoint.header
    assert (header.network, header.attention, header.num_classes) == (network, "none", 1000)
    assert (header.size_px, header.mean, header.dataset) == (224, (0.485, 0.456, 0.406), "imagenet")
    assert header.class_names is None
    # https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
    assert header.metrics == {
        "reported/top1": pytest.approx(0.69758),
        "reported/top5": pytest.approx(0.89078),
    }


def test_a_network_with_them_gives_the_logits_of_torchvision(server, monkeypatch):
    theirs = resnet18()
    old = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    publish(server, monkeypatch, old)
    ours = create_model("resnet18", weights="IMAGENET1K_V1").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_stored_densenets_get_the_names_of_the_network(server, monkeypatch):
    entry = torchvision.models.DenseNet121_Weights.IMAGENET1K_V1
    with torch.device("meta"):
        keys = torchvision.models.densenet121().state_dict()
    stored = {
        key.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1."): torch.ones(1)
        for key in keys
        if "num_batches" not in key
    }
    publish(server, monkeypatch, stored, entry, "densenet121")
    assert open_checkpoint("DEFAULT", "torchvision/densenet121").state_dict.keys() == keys.keys()


def test_weights_with_another_hash_are_refused(server, monkeypatch, cache):
    publish(server, monkeypatch, resnet18().state_dict(), sha256="0123456789abcdef")
    with pytest.raises(OSError, match="invalid hash value"):
        open_checkpoint("DEFAULT", "resnet18")
    assert not list(cache.glob("resnet18*.pth"))


def test_no_connection_is_one_line_with_the_url(server, monkeypatch):
    file = publish(server, monkeypatch, {})
    server.files.clear()
    with pytest.raises(OSError, match=rf"could not download {server.url}{file}: HTTP Error 404"):
        open_checkpoint("DEFAULT", "resnet18")


def test_a_truncated_file_in_the_cache_is_named(server, monkeypatch, cache):
    file = publish(server, monkeypatch, resnet18().state_dict())
    cache.mkdir(parents=True)
    (cache / file).write_bytes(server.files[file][:1000])
    with pytest.raises(OSError, match=rf"or {cache / file} is: .*Remove the file"):
        open_checkpoint("DEFAULT", "resnet18")


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_the_cache_of_torch_does_not_run(server, monkeypatch, cache, tmp_path, archive):
    file = publish(server, monkeypatch, {})
    cache.mkdir(parents=True)
    torch.save(
        {"conv1.weight": Command(tmp_path / "marker")}, cache / file, _use_new_zipfile_serialization=archive
    )
    with pytest.raises(UsageError, match=r"holds Python objects"):
        open_checkpoint("DEFAULT", "resnet18")
    assert not (tmp_path / "marker").exists()


@pytest.fixture
def no_registered(monkeypatch, tmp_path):
    (tmp_path / "empty.json").write_text("[]")
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "empty.json")


def test_a_registered_name_comes_first(monkeypatch, tmp_path):
    network = create_model("resnet20", num_classes=3, depths=[1, 1, 1], widths=[4, 8, 16])
    header = Header("resnet20", "none", 3, 3, {"depths": [1, 1, 1], "widths": [4, 8, 16]}, dataset="cifar10")
    path = tmp_path / "files" / "small.safetensors"
    save_checkpoint(path, network.state_dict(), header)
    entry = make_entry(path, licence="MIT", command="x")
    (tmp_path / "registry.json").write_text(json.dumps([entry.to_dict()]))
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "registry.json")
    for source in ("small", str(path), path):
        assert open_checkpoint(source).header == header
    with pytest.raises(
        UsageError, match=r"unknown weights 'smal'. Did you mean 'small'.*[Oo]r .*give the path"
    ):
        open_checkpoint("smal")


def test_a_name_with_a_dot_is_no_file_and_brings_its_attention(monkeypatch, tmp_path):
    options = {"depths": [1, 1, 1], "widths": [4, 8, 16]}
    torch.manual_seed(3)
    network = create_model("resnet20", attention="cbam", num_classes=3, **options)
    path = tmp_path / "files" / "resnet20_cbam.cifar10.safetensors"
    save_checkpoint(path, network.state_dict(), Header("resnet20", "cbam", 3, 3, options, dataset="cifar10"))
    entry = make_entry(path, licence="MIT", command="x")
    assert entry.name == "resnet20_cbam.cifar10"
    (tmp_path / "registry.json").write_text(json.dumps([entry.to_dict()]))
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "registry.json")
    for name in ("resnet20", None):
        state = create_model(name, weights="resnet20_cbam.cifar10").state_dict()
        assert any(".attention." in key for key in state)
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with pytest.raises(UsageError, match="belongs to another network"):
        create_model("resnet20", attention="none", weights="resnet20_cbam.cifar10")
    with pytest.raises(UsageError, match=r"Did you mean 'resnet20_cbam\.cifar10'"):
        create_model("resnet20", weights="resnet20_cbam.cifar")
    (tmp_path / "odd.ending").write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match=r"odd\.ending is refused"):
        open_checkpoint("odd.ending")


@pytest.mark.parametrize(
    ("source", "network", "expected"),
    [
        (
            "IMAGENET1K_V3",
            "resnet50",
            ["IMAGENET1K_V3", "DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2", "for resnet50"],
        ),
        ("DEFAULT", "resnet20", ["no weights 'DEFAULT' for resnet20", "path of a file"]),
        ("DEFAULT", None, ["no weights 'DEFAULT'", "also name the network"]),
        ("DEFAULT", "torchvision/resnet17", ["'DEFAULT' for torchvision/resnet17"]),
        ("IMAGENET_V1", "resnet18", ["Did you mean 'IMAGENET1K_V1'"]),
        ("IMAGENET1K_V1", "timm/resnet18", ["for timm/resnet18", "Allowed: DEFAULT."]),
    ],
)
def test_an_unknown_name_shows_the_known_ones(no_registered, source, network, expected):
    with pytest.raises(UsageError) as caught:
        open_checkpoint(source, network)
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["run.ckpt", "./DEFAULT", Path("DEFAULT")])
def test_what_looks_like_a_path_is_one(source):
    with pytest.raises(UsageError, match="there is no checkpoint file"):
        open_checkpoint(source, "resnet18")


def test_every_network_of_ours_that_names_one_of_torchvision_has_its_keys():
    named = {name: entry.torchvision for name, entry in MODELS.items() if entry.torchvision}
    assert len(named) >= 6
    for name, theirs in named.items():
        with torch.device("meta"):
            ours = build(name, "none", {}, {}, 1000, 3).state_dict()
            other = torchvision.models.get_model(theirs).state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in other.items()}


def test_weights_of_timm_come_with_its_configuration(monkeypatch):
    theirs = timm.create_model("test_resnet").state_dict()
    asked = []

    def load(*args, **kwargs):
        asked.append(os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"))
        return {key: value + 1 for key, value in theirs.items()}

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", load)
    checkpoint = open_checkpoint("DEFAULT", "timm/test_resnet")
    assert asked == ["1"]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert all(torch.equal(value, theirs[key] + 1) for key, value in checkpoint.state_dict.items())
    header = checkpoint.header
    config = timm.get_pretrained_cfg("test_resnet")
    assert (header.network, header.attention) == ("timm/test_resnet", "none")
    assert (header.num_classes, header.size_px) == (config.num_classes, config.input_size[1])
    assert (header.mean, header.std) == (config.mean, config.std)


def test_a_network_without_weights_in_timm_is_refused():
    with pytest.raises(UsageError, match="timm has no weights for resnet17: "):
        open_checkpoint("DEFAULT", "timm/resnet17")


def test_a_failed_download_of_timm_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        message = "no route\nto host"
        raise ConnectionError(message)

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", fail)
    with pytest.raises(
        OSError, match=r"could not download timm's weights for test_resnet: no route to host\.$"
    ):
        open_checkpoint("DEFAULT", "timm/test_resnet")


def test_the_switch_makes_torch_refuse_code_whatever_is_asked(tmp_path):
    torch.save({"x": Command(tmp_path / "marker")}, tmp_path / "evil.pth")
    with _plain_values_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.pth", weights_only=False)
    assert not (tmp_path / "marker").exists()
