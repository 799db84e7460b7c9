"""Accuracies that checkpoints state are measured again, by the image."""

import gzip
import json
import math
from functools import cache

import numpy as np
import pytest
import torch

from cbam_lightning import create_model
from cbam_lightning.benchmarks.accuracy import TIE, Measured, compare, measure, verify, verify_all
from cbam_lightning.data import FashionMNIST, fashion_mnist
from cbam_lightning.data.fashion_mnist import DEBIAN_DIR, EMBEDDED_DIR, FILE_STEMS
from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header, checkpoint_registry, list_weights, save_checkpoint
from experiments.shipping.registering import make_entry
from tests.command import call
from tests.tasks.few_clothes import COUNT, write_few

OPTIONS = {"depths": [1, 1], "widths": [4, 8]}
MEAN, STD = 0.25, 0.5


@cache
def trained():
    """Train for a second, so that every class has some right and some wrong answers."""
    torch.manual_seed(0)
    model = create_model("resnet20", attention="cbam", num_classes=10, in_channels=1, **OPTIONS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pixels, labels = pictures()
    for start in range(0, 2000, 50):
        images = (torch.tensor(pixels[start : start + 50]).float() / 255 - MEAN) / STD
        loss = torch.nn.functional.cross_entropy(
            model(images), torch.tensor(labels[start : start + 50]).long()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def network():
    model = create_model("resnet20", attention="cbam", num_classes=10, in_channels=1, **OPTIONS)
    model.load_state_dict(trained())
    return model.eval()


def header(metrics, **changes):
    given = {
        "network_options": OPTIONS,
        "class_names": FashionMNIST.class_names,
        "size_px": 28,
        "mean": (MEAN,),
        "std": (STD,),
        "dataset": "fashion_mnist",
    }
    return Header("resnet20", "cbam", 10, 1, metrics=metrics, **given | changes)


def pictures(count=2000):
    """Read the embedded test images by hand: 16 bytes and 8 bytes of header, then a byte a value."""
    images, labels = (gzip.decompress((EMBEDDED_DIR / f"{stem}.gz").read_bytes()) for stem in FILE_STEMS[2:])
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    return pixels, np.frombuffer(labels, np.uint8, offset=8)[:count]


def count_right(model, count=2000, mean=MEAN):
    """Count, of each class, the images that a network names rightly."""
    pixels, labels = pictures(count)
    with torch.no_grad():
        logits = model((torch.tensor(pixels).float() / 255 - mean) / STD).numpy()
    return np.bincount(labels[logits.argmax(1) == labels], minlength=10)


@cache
def expected():
    return count_right(network())


def accuracy():
    return int(expected().sum()) / 2000


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """A machine without the full data set."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "no-package")


@pytest.fixture
def full(tmp_path):
    write_few(tmp_path / "datasets")


def write(metrics, name="small.safetensors", **changes):
    save_checkpoint(name, network().state_dict(), header(metrics, **changes))
    return name


def test_the_images_of_every_class_are_counted():
    measured = measure(network(), header({}), "embedded")
    assert measured.right == tuple(expected().tolist())
    assert len(set(measured.right)) > 3
    assert measured.total == (200,) * 10
    assert measured.top1 == accuracy()
    assert str(measured) == f"{accuracy():.4f} ({sum(expected())} of 2000)"


def test_images_are_normalised_as_the_header_says():
    changed = count_right(network(), mean=0.9)
    assert changed.sum() != expected().sum()
    assert measure(network(), header({}, mean=(0.9,)), "embedded").right == tuple(changed.tolist())


def test_a_network_in_training_mode_is_measured_as_in_use():
    assert measure(network().train(), header({}), "embedded").right == tuple(expected().tolist())


def test_images_whose_two_best_classes_are_equal_tie():
    model = network()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([1, 1 - 5e-5, *[0.0] * 8]))
    assert measure(model, header({}), "embedded") == Measured((200, *[0] * 9), (200,) * 10, ties=2000)
    with torch.no_grad():
        model.fc.bias[1] = 1 - 2e-4
    assert measure(model, header({}), "embedded").ties == 0


@pytest.mark.parametrize(
    ("stated", "ties", "passes"),
    [
        (0.5, 0, True),
        (float(np.float32(0.5)), 0, True),
        (0.501, 0, False),
        (0.499, 0, False),
        (0.5001, 0, False),
        (0.501, 1, True),
        (0.499, 1, True),
        (0.502, 1, False),
        (math.nan, 3, False),
        (math.inf, 3, False),
    ],
)
def test_only_as_many_images_may_differ_as_tie(stated, ties, passes):
    measured = Measured((250, 250), (500, 500), ties)
    found, text = compare(stated, measured)
    assert found is passes
    assert "0.5000 (500 of 1000)" in text
    assert text.endswith("as stated" if stated == 0.5 else f"and {ties} tie up to rounding")


def test_a_stated_accuracy_is_confirmed_by_the_image():
    assert verify(write({"embedded/top1": accuracy()})) == (
        "whole, and every value fits its network; "
        f"embedded/top1 {accuracy():.4f} ({sum(expected())} of 2000), as stated"
    )


def test_the_full_data_set_is_measured_where_it_is(full):
    right = count_right(network(), COUNT).sum()
    name = write({"embedded/top1": accuracy(), "test/top1": float(np.float32(right / COUNT))})
    assert f"; test/top1 {right / COUNT:.4f} ({right} of {COUNT}), as stated; embedded/top1 " in verify(name)
    name = write({"embedded/top1": accuracy(), "test/top1": (right + 1) / COUNT})
    with pytest.raises(
        OSError, match=rf"test/top1 is .* \({right} of {COUNT}\), stated is .* \({right + 1}\)"
    ):
        verify(name)


def test_the_full_data_set_may_be_missing():
    text = verify(write({"embedded/top1": accuracy(), "test/top1": 0.9}))
    assert "test/top1 not measured, since the full Fashion-MNIST is not on this machine; embedded" in text


@cache
def ties():
    """Count the images whose two best classes differ by rounding: how many there are depends on the CPU."""
    pixels, _ = pictures()
    with torch.no_grad():
        best = network()((torch.tensor(pixels).float() / 255 - MEAN) / STD).topk(2).values
    return int((best[:, 0] - best[:, 1] < TIE).sum())


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_image_off_besides_the_ties_is_a_failure_of_one_line(sign, capsys):
    off = sign * (1 + ties())
    name = write({"embedded/top1": accuracy() + off / 2000})
    assert call(f"weights verify {name}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    count = sum(expected())
    assert f"{name} is not what it states: embedded/top1 is {accuracy():.4f} ({count} of 2000)" in line
    assert f"({count + off})" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"test/top1": 0.1}},  # of how many images, it does not say
        {"metrics": {}},
        {"dataset": "cifar10"},
        {"size_px": 32},
        {"mean": None},
        {"class_names": FashionMNIST.class_names[::-1]},
    ],
)
def test_what_states_nothing_of_our_images_is_only_loaded(changes):
    name = write(**{"metrics": {"embedded/top1": 0.1}} | changes)
    assert verify(name) == (
        "whole, and every value fits its network; "
        "no accuracy measured, since none is stated for images that come with this package"
    )


def test_a_file_without_its_classifier_does_not_fit():
    state = {key: value for key, value in network().state_dict().items() if not key.startswith("fc.")}
    save_checkpoint("headless.safetensors", state, header({}))
    with pytest.raises(UsageError, match=r"does not fit the network of its own header: fc\.weight, fc\.bias"):
        verify("headless.safetensors")


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A table of three checkpoints, the first of which is damaged and the second has another accuracy."""
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "registry.json")
    entries = []
    for name, figure in (("a.x", accuracy()), ("b.x", 0.99), ("c.x", accuracy())):
        path = tmp_path / "files" / f"{name}.safetensors"
        write({"embedded/top1": 0.5}, path)  # the entry has the last word
        values = make_entry(path, licence="MIT", command="x").to_dict()
        entries.append(values | {"metrics": {"embedded/top1": figure}})
    (tmp_path / "registry.json").write_text(json.dumps(entries))
    damaged = tmp_path / "files" / "a.x.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")


def test_all_are_verified_though_some_fail(table, capsys):
    assert call("weights verify --all") == 1
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert line.startswith("c.x: whole, and every value fits its network; embedded/top1 ")
    (error,) = shown.err.splitlines()
    assert "2 of 3 checkpoints failed: " in error
    assert "a.x.safetensors is damaged: its SHA-256 is " in error
    assert f"b.x is not what it states: embedded/top1 is {accuracy():.4f}" in error
    assert "stated is 0.99 (1980)" in error
    assert call("weights verify c.x") == 0


def test_what_to_verify_has_to_be_said(table, capsys):
    for options in ("", "c.x --all"):
        assert call(f"weights verify {options}") == 2
        assert "or --all" in capsys.readouterr().err
    assert call("weights verify c.y") == 2
    assert "Did you mean 'c.x'" in capsys.readouterr().err


def test_every_shipped_checkpoint_has_its_stated_accuracy_on_the_embedded_images():
    lines = list(verify_all(list_weights()))
    assert [line.split(":")[0] for line in lines] == list_weights()
    assert all(line.endswith("of 2000), as stated") for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="needs the full data set")
def test_every_shipped_checkpoint_has_its_stated_accuracy_on_all_test_images(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", DEBIAN_DIR)
    assert all(line.count("as stated") == 2 for line in verify_all(list_weights()))
