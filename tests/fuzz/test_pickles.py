"""Pickles with arbitrary content are read or refused, and run no code."""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import asdict

import pytest
import torch
from hypothesis import strategies as st

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import read_state_dict, read_training_state, translate
from tests.fuzz.damage import altered, damaged, fuzz, json_values, lengths
from tests.fuzz.test_checkpoints import HEADER, VALUES, names, use
from tests.weights.test_hostile import NAMES, PLACES, MakeFolder, write

# torch warns about unusual pickles and tensors
pytestmark = pytest.mark.filterwarnings("ignore")

TRAINING = {
    "state_dict": {f"network.{key}": value for key, value in VALUES.items()},
    "hyper_parameters": asdict(HEADER),
    "cbam_lightning": {"seed": 1, "metrics": {"test/top1": 0.5}, "experiment": "experiments/a.yaml"},
    "epoch": 5,
}


# These attributes shadow the methods of the object that has them.
ATTRIBUTES = dict.fromkeys(["numel", "detach", "items", "get", "keys"], 5)


class Dictionary(dict):
    """Unpickles to an OrderedDict with attributes."""

    def __reduce__(self):
        return OrderedDict, (), ATTRIBUTES, None, iter(self.items())


def parameter():
    value = torch.nn.Parameter(torch.ones(3))
    vars(value).update(ATTRIBUTES)
    return value


def tower(kind):
    """Return a value that is a few bytes as a pickle, but takes forever to write out."""
    value = kind("x")
    for _ in range(60):
        value = kind([value, value, value])
    return value


# What a pickle can hold and JSON cannot, by its placeholder in a document.
OBJECTS = {
    "<sparse>": lambda: torch.eye(3).to_sparse(),
    "<csr>": lambda: torch.eye(3).to_sparse_csr(),
    "<meta>": lambda: torch.empty(3, device="meta"),
    "<expanded>": lambda: torch.zeros(1).expand(10**6, 10**6),
    "<complex128>": lambda: torch.ones(3, dtype=torch.complex128),
    "<float8>": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "<strided>": lambda: torch.ones(3, 2)[:, 0],
    "<bfloat16>": lambda: torch.ones(3, 2).bfloat16(),
    "<scalar>": lambda: torch.ones(()),
    "<parameter>": parameter,
    "<dtype>": lambda: torch.float32,
    "<device>": lambda: torch.device("meta"),
    "<size>": lambda: torch.Size([3]),
    "<ordered>": lambda: Dictionary(a=1, b=torch.ones(3)),
    "<tower>": lambda: tower(list),
    "<integer>": lambda: 10**5000,
    "<set>": lambda: {1, 2},
    "<bytes>": lambda: b"bytes",
    "<complex>": lambda: 3j,
    "<tuple>": lambda: (1, 2),
    "<keys>": lambda: {(1, 2): 3, None: 4},
}
ANYTHING = st.one_of(json_values(), *[st.sampled_from(sorted(OBJECTS))] * 2)


def filled(document):
    """Replace the placeholders in a document by the objects."""
    if isinstance(document, dict):
        return {key: filled(value) for key, value in document.items()}
    if isinstance(document, list):
        return [filled(value) for value in document]
    return OBJECTS[document]() if isinstance(document, str) and document in OBJECTS else document


def saved(content, zipped=True):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@lengths(50, 1_500)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_with_other_values(examples, zipped, tmp_path):
    def read(content):
        (tmp_path / "x.ckpt").write_bytes(saved(filled(content), zipped))
        use(tmp_path / "x.ckpt")

    fuzz(examples, altered(TRAINING, ANYTHING), read, UsageError)


@lengths(50, 1_500)
def test_a_state_dict_with_other_values(examples, tmp_path):
    content = {"state_dict": VALUES, "best_prec1": torch.tensor(70.0), "arch": "resnet18"}

    def read(content):
        torch.save(filled(content), tmp_path / "x.pth")
        translate(read_state_dict(tmp_path / "x.pth")[0])

    fuzz(examples, altered(content, ANYTHING), read, UsageError)


def replaced(archive, record, content, way=zipfile.ZIP_STORED):
    """Return an archive of torch.save with one record replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", way) as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith(record) else old.read(name))
    return buffer.getvalue()


GLOBALS = ["posix mkdir", "os mkdir", "os system", "builtins eval", "builtins exec", "builtins getattr"]
GLOBALS += ["subprocess Popen", "torch load", "torch.hub load", "importlib import_module", "\x1b[31m x\ny"]
CALLS = st.builds(
    lambda name, argument, end: b"c" + name.replace(" ", "\n").encode() + b"\n(V" + argument + b"\ntR" + end,
    st.sampled_from(GLOBALS),
    st.sampled_from([b"marker", b"touch marker", b"open('marker', 'w')"]),
    st.sampled_from([b".", b"", b"0."]),
)


@lengths(80, 2_000)
def test_a_damaged_pickle(examples, tmp_path):
    """Pickles with and without the archive, some with function calls in the middle."""
    archive, legacy = saved(TRAINING), saved(TRAINING, zipped=False)
    with zipfile.ZipFile(io.BytesIO(archive)) as records:
        pickled = records.read("archive/data.pkl")
    cut = st.tuples(damaged(pickled), st.integers(0, len(pickled)), CALLS)
    calling = st.one_of(damaged(pickled), cut.map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]), CALLS)
    zipped = calling.map(lambda content: replaced(archive, "data.pkl", content))

    def read(content):
        (tmp_path / "x.ckpt").write_bytes(content)
        try:
            read_training_state(tmp_path / "x.ckpt")
        finally:
            assert names(tmp_path) == {"x.ckpt"}

    fuzz(examples, st.one_of(damaged(archive, legacy), zipped, calling), read, UsageError)


@lengths(60, 2_000)
def test_a_damaged_pickle_of_an_object_that_runs_code(examples, tmp_path):
    marker = tmp_path / "marker"
    contents = []
    for place in PLACES:
        for way in ("zip", "legacy", "pickle"):
            write(tmp_path / "evil", marker, place, way)
            contents.append((tmp_path / "evil").read_bytes())

    def read(drawn):
        name, content = drawn
        (tmp_path / name).write_bytes(content)
        try:
            read_state_dict(tmp_path / name)
        finally:
            assert not marker.exists()

    harmless = pickle.dumps(VALUES), saved({"state_dict": VALUES})
    values = st.tuples(st.sampled_from(NAMES), damaged(*contents, *harmless))
    fuzz(examples, values, read, UsageError)
    assert MakeFolder(marker).__reduce__()[1] == (str(marker),)
