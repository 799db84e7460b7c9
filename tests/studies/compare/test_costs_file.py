"""Costs in a file are those that were measured, or one line says what is wrong."""

import json

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare.costs import Costs
from cbam_lightning.studies.compare.costs_file import read_costs, save_costs

NETWORKS = {
    "none": {"network": "resnet8", "attention": "none", "attention_options": {}},
    "cbam": {"network": "resnet8", "attention": "cbam", "attention_options": {"pools": ("avg",)}},
}
SAVED = json.loads(json.dumps(NETWORKS))
COSTS = {
    "none": Costs(78_330, 3_100_000, {"cpu": 12.5, "cuda": 1.25}, 1_000_000, SAVED["none"]),
    "cbam": Costs(79_000, 3_200_000, {"cpu": 17.125, "cuda": 2.5}, 2_000_000, SAVED["cbam"]),
}


@pytest.fixture
def path(tmp_path):
    save_costs(tmp_path / "new" / "costs.json", COSTS, {"batch": 32, "processor": "a fast one"})
    return tmp_path / "new" / "costs.json"


def test_what_was_saved_is_read(path):
    assert read_costs(path, NETWORKS) == (COSTS, {"batch": 32, "processor": "a fast one"})
    assert list(read_costs(path, {"cbam": NETWORKS["cbam"]})[0]) == ["cbam"]


def test_nothing_is_overwritten(path):
    with pytest.raises(UsageError, match=r"costs\.json already exists"):
        save_costs(path, COSTS, {})


def test_an_arm_without_costs_is_told(path):
    with pytest.raises(UsageError, match=r"unknown arm of .*costs\.json 'cbma'\. Did you mean 'cbam'"):
        read_costs(path, {"none": NETWORKS["none"], "cbma": {}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet20"}, "costs of cbam with network 'resnet8', but its runs have 'resnet20'"),
        ({"attention_options": {}}, r"attention_options {'pools': \['avg'\]}, but its runs have {}"),
        ({"size_px": 28}, "size_px None, but its runs have 28"),
    ],
)
def test_costs_of_another_network_are_told(path, change, message):
    with pytest.raises(UsageError, match=message):
        read_costs(path, {"cbam": NETWORKS["cbam"] | change})


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"no\.json does not exist; `compare --out DIR` writes"):
        read_costs(tmp_path / "no.json", {})


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [],
        lambda content: {"setting": {}, "arms": {}},
        lambda content: {"arms": content["arms"]},
        lambda content: content | {"arms": [1]},
        lambda content: content | {"setting": 1},
        *(
            (lambda content, name=name, value=value: content["arms"]["cbam"].update({name: value}) or content)
            for name, value in [
                ("params", -1),
                ("macs", 1.5),
                ("saved_bytes", 0),
                ("step_ms", 12.0),
                ("step_ms", {"cpu": 1.0}),
                ("step_ms", {"cpu": 1.0, "cuda": 0.0}),
                ("step_ms", {"cpu": 1.0, "cuda": float("nan")}),
                ("step_ms", {"cpu": 1.0, "cuda": "fast"}),
                ("unknown", 1),
                ("network", 1),
            ]
        ),
    ],
)
def test_a_damaged_file_is_told(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UsageError, match=r"costs\.json is damaged"):
        read_costs(path, {})


def test_a_file_that_is_no_json_is_told(path):
    path.write_bytes(b"\xff{")
    with pytest.raises(UsageError, match=r"costs\.json is damaged, or not written by `compare --out`"):
        read_costs(path, {})
