"""Checkpoint files with arbitrary content are read or refused, and nothing but the result is written."""

import json
import struct

import pytest
import torch
from hypothesis import strategies as st

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header, load_checkpoint, read_state_dict, save_checkpoint
from tests.fuzz.damage import altered, damaged, fuzz, json_values, lengths

VALUES = {
    "layer1.0.conv1.weight": torch.ones(2, 3, 1, 1),
    "fc.weight": torch.ones(3, 2),
    "fc.bias": torch.zeros(3),
    "bn1.num_batches_tracked": torch.tensor(7),
}
HEADER = Header(
    "resnet20",
    "cbam",
    3,
    3,
    network_options={"widths": [8, 16, 32], "where": {"a": ["b"]}},
    attention_options={"reduction": 8, "pools": ["avg", "max"]},
    class_names=("Katze", "chien", "狐"),
    mean=(0.1, 0.2, 0.3),
    metrics={"val/top1": 0.9},
)


def use(path):
    """Use a checkpoint as the commands do."""
    checkpoint = load_checkpoint(path)
    assert all(key.isprintable() for key in checkpoint.state_dict)
    assert all(line.isprintable() for line in checkpoint.header.describe().split("\n"))
    save_checkpoint("out.safetensors", checkpoint.state_dict, checkpoint.header)
    again = load_checkpoint("out.safetensors")
    assert again.header.to_metadata() == checkpoint.header.to_metadata()
    shapes = [{key: v.shape for key, v in c.state_dict.items()} for c in (again, checkpoint)]
    assert shapes[0] == shapes[1]


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def whole(tmp_path):
    save_checkpoint(tmp_path / "whole.safetensors", VALUES, HEADER)
    return (tmp_path / "whole.safetensors").read_bytes()


@lengths(100, 3_000)
@pytest.mark.parametrize("function", [use, read_state_dict])
def test_a_damaged_safetensors_file(examples, function, whole, tmp_path):
    path = tmp_path / "x.safetensors"

    def read(content):
        path.write_bytes(content)
        function(path)

    fuzz(examples, damaged(whole), read, UsageError)
    assert names(tmp_path) - {"out.safetensors"} == {"whole.safetensors", "x.safetensors"}


@lengths(60, 1_500)
def test_a_safetensors_file_with_another_table(examples, whole, tmp_path):
    (length,) = struct.unpack("<Q", whole[:8])
    table, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    empty = {"dtype": "F32", "shape": [0, 2**63 - 1], "data_offsets": [0, 0]}
    tensors = st.builds(
        lambda shape, dtype: empty | {"shape": shape, "dtype": dtype},
        st.lists(st.sampled_from([0, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]), max_size=4),
        st.sampled_from(["F32", "F4", "F8_E8M0", "C64", "BOOL", "\x1b[31m"]),
    )
    alone = st.dictionaries(st.text(min_size=1, max_size=4), tensors, max_size=2).map(lambda t: (t, b""))
    changed = altered(table, st.one_of(json_values(), tensors)).map(lambda t: (t, data))

    def read(drawn):
        text = json.dumps(drawn[0]).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + drawn[1])
        read_state_dict(tmp_path / "x.safetensors")

    fuzz(examples, st.one_of(alone, changed), read, UsageError)


@lengths(60, 2_000)
def test_a_header_in_the_metadata(examples):
    values = json.loads(HEADER.to_metadata()["cbam_lightning"])

    def read(text):
        header = Header.from_metadata({"cbam_lightning": text}, "x.safetensors")
        assert all(line.isprintable() for line in header.describe().split("\n"))
        assert Header.from_metadata(header.to_metadata(), "x").to_metadata() == header.to_metadata()

    texts = st.one_of(
        altered(values).map(json.dumps),
        damaged(json.dumps(values).encode()).map(lambda text: text.decode(errors="replace")),
    )
    fuzz(examples, texts, read, UsageError)
