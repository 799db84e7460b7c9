"""Reading and writing checkpoint files, hostile and damaged ones included."""

import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import (
    Header,
    load_checkpoint,
    read_state_dict,
    read_training_state,
    save_checkpoint,
)

# torch has its say on pickles of other protocols than its own
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")

HEADER = Header(
    "resnet20",
    "cbam",
    num_classes=3,
    in_channels=3,
    attention_options={"reduction": 8},
    class_names=("cat", "dog", "fox"),
    size_px=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    metrics={"val/top1": 1 / 3, "test/top1": 0.1 + 0.2},
    averaged=True,
    seed=7,
)
PLAIN = {"network": "resnet20", "attention": "cbam", "num_classes": 3, "in_channels": 3}
VALUES = {
    "conv1.weight": torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2) / 7,
    "bn1.running_var": torch.tensor([1e-42, float("inf"), -0.0, 1 / 3]),
    "bn1.num_batches_tracked": torch.tensor(2**40 + 1),
    "fc.weight": torch.tensor([[1.5, -2.5]], dtype=torch.float16),
    "fc.bias": torch.tensor([0.1, 0.2], dtype=torch.float64),
}


def training_state(**changes):
    return {
        "state_dict": {f"network.{key}": value for key, value in VALUES.items()} | {"extra": torch.ones(1)},
        "hyper_parameters": PLAIN | {"optimizer": {"class_path": "torch.optim.SGD"}, "schedule": None},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
        "epoch": 3,
    } | changes


def assert_same_bits(state_dict, expected):
    assert list(state_dict) == list(expected)
    for key, value in expected.items():
        assert state_dict[key].dtype == value.dtype, key
        assert state_dict[key].shape == value.shape, key
        assert state_dict[key].numpy().tobytes() == value.contiguous().numpy().tobytes(), key


def refusal(path):
    with pytest.raises(UsageError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300
    return text


@pytest.fixture
def shared(tmp_path):
    save_checkpoint(tmp_path / "run.safetensors", VALUES, HEADER)
    return tmp_path / "run.safetensors"


@pytest.fixture
def ckpt(tmp_path):
    torch.save(training_state(), tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def test_a_shared_file_gives_back_the_same_bits_and_header(shared):
    checkpoint = load_checkpoint(str(shared))
    assert checkpoint.header == HEADER
    assert_same_bits(dict(sorted(checkpoint.state_dict.items())), dict(sorted(VALUES.items())))


def test_a_shared_file_is_plain_safetensors(shared):
    with safe_open(shared, "pt") as file:
        assert sorted(file.keys()) == sorted(VALUES)
        assert file.metadata() == HEADER.to_metadata()
        assert torch.equal(file.get_tensor("conv1.weight"), VALUES["conv1.weight"])


def test_the_memory_layout_does_not_reach_the_file(shared, tmp_path):
    weight = VALUES["conv1.weight"].to(memory_format=torch.channels_last).requires_grad_()
    assert not weight.is_contiguous()
    save_checkpoint(tmp_path / "other.safetensors", VALUES | {"conv1.weight": weight}, HEADER)
    assert (tmp_path / "other.safetensors").read_bytes() == shared.read_bytes()


def test_a_shared_file_has_to_be_named_so(tmp_path):
    with pytest.raises(UsageError, match=r"run\.pt should end in \.safetensors"):
        save_checkpoint(tmp_path / "run.pt", VALUES, HEADER)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_file_before(shared, monkeypatch):
    before = shared.read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(shared, {"fc.bias": torch.ones(3)}, HEADER)
    assert shared.read_bytes() == before
    assert list(shared.parent.iterdir()) == [shared]


def test_a_training_state_gives_the_network_alone(ckpt):
    checkpoint = load_checkpoint(ckpt)
    assert_same_bits(checkpoint.state_dict, VALUES)
    assert checkpoint.header == Header(**PLAIN)


def test_the_entry_of_the_run_is_part_of_the_header(ckpt):
    entry = {"averaged": True, "seed": 3, "metrics": {"val/top1": 0.5}, "version": "0.1.0"}
    torch.save(training_state(cbam_lightning=entry), ckpt)
    assert load_checkpoint(ckpt).header == Header(**PLAIN, **entry)


def test_a_training_state_is_read_completely_and_unchanged(ckpt):
    state = read_training_state(str(ckpt))
    assert_same_bits(state["state_dict"], training_state()["state_dict"])
    assert state["hyper_parameters"] == training_state()["hyper_parameters"]
    assert torch.equal(state["optimizer_states"][0]["state"][0]["momentum_buffer"], torch.ones(3))
    assert state["epoch"] == 3


def test_the_older_format_of_torch_is_read(ckpt):
    state = training_state(state_dict=OrderedDict(training_state()["state_dict"]))
    torch.save(state, ckpt, _use_new_zipfile_serialization=False)
    assert_same_bits(load_checkpoint(ckpt).state_dict, VALUES)


@pytest.mark.parametrize("name", ["none.ckpt", "none.safetensors", "."])
def test_a_missing_file_is_named(tmp_path, name):
    assert "there is no checkpoint file" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["run.ckpt", "run.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"hello\nworld\n", b"garbage " * 100, bytes(500), random.Random(0).randbytes(5_000)],
)
def test_what_is_no_checkpoint_is_refused_in_a_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "damaged" in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["shared", "ckpt"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_a_line(kind, share, request):
    path = request.getfixturevalue(kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kind", ["shared", "ckpt", "old ckpt"])
def test_no_damage_raises_anything_but_a_usage_error(kind, tmp_path):
    path = tmp_path / ("run.safetensors" if kind == "shared" else "run.ckpt")
    if kind == "shared":
        save_checkpoint(path, VALUES, HEADER)
    else:
        torch.save(training_state(), path, _use_new_zipfile_serialization=kind == "ckpt")
    content = path.read_bytes()
    randomness, refusals = random.Random(0), []
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(randomness.choice([1, 5, 50])):
            damaged[randomness.randrange(len(damaged))] = randomness.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UsageError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert not [text for text in refusals if "\n" in text]


class Command:
    """Unpickling this runs a command."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["beside", "hyper_parameters", "state_dict"])
@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: Command(os.system, f"touch {p}"),
        lambda p: Command(Path.touch, p),
        lambda p: Command(eval, f"open({str(p)!r}, 'w')"),
    ],
    ids=["os.system", "Path.touch", "eval"],
)
def test_code_in_a_file_does_not_run(tmp_path, make, archive, where):
    marker = tmp_path / "marker"
    state = training_state()
    (state if where == "beside" else state[where])["network.x"] = make(marker)
    torch.save(state, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=archive)
    text = refusal(tmp_path / "evil.ckpt")
    assert "holds Python objects (" in text
    assert "weights_only" not in text
    assert not marker.exists()


def test_code_in_a_bare_pickle_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps(training_state(x=Command(Path.touch, marker)), protocol=protocol)
        for name in ("evil.ckpt", "evil.safetensors"):
            (tmp_path / name).write_bytes(content)
            refusal(tmp_path / name)
            assert not marker.exists()
    # the pickle is dangerous indeed
    pickle.loads(content)
    assert marker.exists()


def test_an_object_in_a_file_is_named(ckpt):
    torch.save(training_state(loops=HEADER), ckpt)
    assert "Python objects (cbam_lightning.weights.header.Header)" in refusal(ckpt)


@pytest.mark.parametrize("state", [[], 3, torch.ones(2), {}, {"model": {}}, {"state_dict": [1, 2]}])
def test_a_file_without_a_state_dict_is_refused(ckpt, state):
    torch.save(state, ckpt)
    assert "is not a Lightning checkpoint: it has no state_dict" in refusal(ckpt)
    assert f"cbam-lightning weights import {ckpt} OUT.safetensors" in refusal(ckpt)


@pytest.mark.parametrize("entry", ["hyper_parameters", "cbam_lightning"])
@pytest.mark.parametrize("value", [None, [("network", "resnet20")], 3, "resnet20"])
def test_an_entry_that_is_no_dictionary_is_refused(ckpt, entry, value):
    torch.save(training_state(**{entry: value}), ckpt)
    assert f"its {entry} should be a dictionary" in refusal(ckpt)


def test_a_training_state_of_others_is_refused(ckpt):
    torch.save({"state_dict": {"network.fc.weight": torch.ones(2)}}, ckpt)
    assert "does not say its network, attention, num_classes, in_channels" in refusal(ckpt)
    assert f"cbam-lightning weights import {ckpt} OUT.safetensors" in refusal(ckpt)


@pytest.mark.parametrize("value", [torch.tensor(3), "3", None, -1.0])
def test_hostile_hyperparameters_are_refused(ckpt, value):
    torch.save(training_state(hyper_parameters=PLAIN | {"num_classes": value}), ckpt)
    assert "num_classes" in refusal(ckpt)


def test_what_is_no_tensor_is_no_part_of_the_network(ckpt):
    state = training_state()
    state["state_dict"] |= {"network.a": 3, "network.b": [torch.ones(1)], 5: torch.ones(1)}
    torch.save(state, ckpt)
    assert_same_bits(load_checkpoint(ckpt).state_dict, VALUES)


def test_a_shared_file_of_others_is_refused(tmp_path):
    save_file(VALUES, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert "has no cbam_lightning header" in refusal(tmp_path / "theirs.safetensors")
    assert "theirs.safetensors OUT.safetensors" in refusal(tmp_path / "theirs.safetensors")
    save_file(VALUES, tmp_path / "theirs.safetensors", metadata={"cbam_lightning": "{]"})
    assert "has a damaged header" in refusal(tmp_path / "theirs.safetensors")


def test_a_tensor_under_two_names_is_written_twice(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", {"a": VALUES["fc.bias"], "b": VALUES["fc.bias"]}, HEADER)
    assert_same_bits(
        load_checkpoint(tmp_path / "x.safetensors").state_dict, dict.fromkeys("ab", VALUES["fc.bias"])
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.empty(3, device="meta"),
        lambda: torch.ones(3, dtype=torch.complex128),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    ],
    ids=["sparse", "csr", "meta", "complex", "expanded", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_no_array_in_the_file_is_refused(ckpt, make):
    torch.save(training_state(state_dict={"network.fc.weight": make()}), ckpt)
    assert "'fc.weight' is a Tensor, not a tensor with all its numbers" in refusal(ckpt)
    torch.save({"fc.weight": make()}, ckpt)
    with pytest.raises(UsageError, match="not a tensor with all its numbers"):
        read_state_dict(ckpt)


class _Dictionary(dict):
    """Unpickling this makes an OrderedDict with attributes in place of its methods."""

    def __reduce__(self):
        return OrderedDict, (), dict.fromkeys(("items", "get", "keys"), 5), None, iter(self.items())


def test_attributes_of_the_file_do_not_stand_in_place_of_methods(ckpt):
    parameter = torch.nn.Parameter(torch.ones(3))
    vars(parameter).update(dict.fromkeys(("numel", "detach", "cpu", "is_contiguous"), 5))
    state_dict = _Dictionary({"network.fc.bias": parameter})
    torch.save(_Dictionary(training_state(state_dict=state_dict)), ckpt)
    read = load_checkpoint(ckpt).state_dict
    assert_same_bits(read, {"fc.bias": torch.ones(3)})
    save_checkpoint("x.safetensors", read, HEADER)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(ckpt):
    whole = zipfile.ZipFile(ckpt)
    contents = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(ckpt, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in contents.items():
            bomb.writestr(name, content + bytes(1 << 20 if "/data/" in name else 0))
    assert "its records have" in refusal(ckpt)
    assert "more than the file" in refusal(ckpt)


@pytest.mark.parametrize("key", ["\x1b[31m", "a\nb", ""])
def test_a_key_with_control_characters_is_refused_without_them(tmp_path, key):
    for name, save in (("x.safetensors", save_file), ("x.pth", torch.save)):
        save({key + "\r": torch.ones(1)}, tmp_path / name)
        with pytest.raises(UsageError, match="one of its keys is not a name") as caught:
            read_state_dict(tmp_path / name)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("shape", [[0, 2**63], [2**64 - 1, 0]])
def test_a_shape_that_torch_cannot_have_is_refused(tmp_path, shape):
    table = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(table).to_bytes(8, "little") + table)
    assert "truncated or damaged" in refusal(tmp_path / "x.safetensors")


def test_the_name_of_what_a_pickle_calls_has_no_control_characters(ckpt):
    ckpt.write_bytes(b"\x80\x02cos\x1b[31m\nsystem\n)R.")
    assert refusal(ckpt).isprintable()


@pytest.mark.parametrize(
    "values",
    [
        {"num_classes": 10**12, "class_names": None},
        {"network_options": {"depths": [10**9, 1, 1]}},
        {"network_options": {"widths": [10**6] * 3}},
        {"attention_options": {"kernel_size": 10**6 + 1}},
    ],
    ids=str,
)
def test_a_header_of_a_far_larger_network_is_refused_before_that_is_built(tmp_path, values):
    field = "depths" if "depths" in str(values) else next(iter(values))
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"weight": torch.zeros(100)}, replace(HEADER, **values))
    with pytest.raises(UsageError, match=f"damaged header: {field} says 10+1?, but the file has 100"):
        load_checkpoint(path)
