"""Entries are added to the table of registered checkpoints."""

import hashlib
import json

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header, checkpoint_registry, list_weights, load_checkpoint, save_checkpoint
from cbam_lightning.weights.checkpoint_registry import Entry, find
from experiments.shipping.registering import make_entry, register

HEADER = Header("resnet20", "cbam", 3, 3, dataset="cifar10", metrics={"test/top1": 0.9125})
MADE = {"licence": "MIT", "command": "cbam-lightning fit --config experiments/x.yaml"}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint next to an empty table."""
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "registry.json")
    checkpoint_registry.TABLE.write_text("[]")
    save_checkpoint(tmp_path / "files" / "small.safetensors", {"x": torch.zeros(3)}, HEADER)
    return tmp_path / "files" / "small.safetensors"


def test_an_entry_says_what_the_file_and_its_header_say(checkpoint):
    content = checkpoint.read_bytes()
    assert make_entry(checkpoint, **MADE) == Entry(
        name="small",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        licence="MIT",
        dataset="cifar10",
        command="cbam-lightning fit --config experiments/x.yaml",
        metrics={"test/top1": 0.9125},
        file="small.safetensors",
    )


def test_an_entry_takes_the_place_of_the_one_of_its_name(checkpoint):
    entries = {name: make_entry(checkpoint, **MADE, name=name) for name in ("b", "a.x")}
    register(entries["b"])
    register(entries["a.x"])
    assert {name: find(name) for name in list_weights()} == entries
    entries["b"] = make_entry(checkpoint, licence="BSD-3-Clause", command="y", name="b", seeds={"3": 0.5})
    register(entries["b"])
    assert {name: find(name) for name in list_weights()} == entries
    assert [values["name"] for values in json.loads(checkpoint_registry.TABLE.read_text())] == ["a.x", "b"]


def test_an_entry_that_cannot_be_added_leaves_the_table_as_it_was(checkpoint):
    checkpoint_registry.TABLE.write_text("[5]")
    with pytest.raises(UsageError, match="is not a table of checkpoints"):
        register(make_entry(checkpoint, **MADE))
    assert checkpoint_registry.TABLE.read_text() == "[5]"


def test_a_checkpoint_without_its_data_set_cannot_be_registered(tmp_path, checkpoint):
    state = load_checkpoint(checkpoint).state_dict
    save_checkpoint(tmp_path / "x.safetensors", state, Header("resnet20", "cbam", 3, 3))
    with pytest.raises(UsageError, match="does not name its data set"):
        make_entry(tmp_path / "x.safetensors", **MADE)
