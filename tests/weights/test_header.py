"""What a checkpoint says of itself."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from cbam_lightning.errors import UsageError
from cbam_lightning.weights import Header

REQUIRED = {"network": "resnet20", "attention": "cbam", "num_classes": 3, "in_channels": 1}
FULL = Header(
    network="resnet20",
    attention="cbam",
    num_classes=3,
    in_channels=1,
    network_options={"widths": [8, 16, 32]},
    attention_options={"reduction": 8, "pools": ["avg", "max"]},
    class_names=("Katze", "chien", "狐"),
    size_px=28,
    mean=(0.286,),
    std=(0.353,),
    dataset="pets",
    metrics={"val/top1": 0.1 + 0.2, "test/top5": 1.0},
    averaged=True,
    experiment="experiments/pets.yaml",
    seed=0,
    version="0.1.0",
)


def from_text(text):
    return Header.from_metadata({"cbam_lightning": text}, "run.safetensors")


def test_a_full_header_survives_the_metadata_unchanged():
    metadata = FULL.to_metadata()
    assert list(metadata) == ["cbam_lightning"]
    assert Header.from_metadata(metadata, "x") == FULL
    assert all(
        value != getattr(Header(**REQUIRED), name) or name in REQUIRED for name, value in asdict(FULL).items()
    )


def test_the_file_format_is_this_json():
    text = (
        '{"format_version": 1, "network": "resnet20", "attention": "cbam", "num_classes": 3, '
        '"in_channels": 1, "class_names": ["a", "b", "c"], "mean": [0.5], "std": [1], "averaged": true, '
        '"of the future": [1]}'
    )
    names = ("a", "b", "c")
    assert from_text(text) == Header(
        **REQUIRED, class_names=names, mean=(0.5,), std=(1,), averaged=True, metrics={}, attention_options={}
    )
    written = json.loads(Header(**REQUIRED, class_names=names).to_metadata()["cbam_lightning"])
    assert written["format_version"] == 1
    assert {name: written[name] for name in REQUIRED} == REQUIRED
    assert written["class_names"] == ["a", "b", "c"]


def test_what_may_be_absent_may_also_be_null():
    optional = dict.fromkeys(("class_names", "mean", "std", "metrics", "attention_options", "seed"))
    assert Header.from_dict(REQUIRED | optional, "x") == Header(**REQUIRED)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("absent", [True, False])
def test_what_is_needed_to_build_the_network_has_to_be_there(name, absent):
    values = {k: v for k, v in REQUIRED.items() if k != name} if absent else REQUIRED | {name: None}
    with pytest.raises(UsageError, match=f"^run.ckpt does not say its {name};"):
        Header.from_dict(values, "run.ckpt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", 18),
        ("network", ["resnet20"]),
        ("network", {"a": {"b": "c" * 10_000}}),
        ("attention", True),
        ("num_classes", "3"),
        ("num_classes", 3.0),
        ("num_classes", True),
        ("in_channels", [1]),
        ("network_options", ["widths", 8]),
        ("attention_options", "reduction=8"),
        ("class_names", "abc"),
        ("class_names", {"a": 1, "b": 2, "c": 3}),
        ("size_px", "28"),
        ("size_px", False),
        ("mean", 0.5),
        ("std", "1"),
        ("dataset", 5),
        ("metrics", [1.0]),
        ("averaged", 1),
        ("averaged", "yes"),
        ("experiment", ["a"]),
        ("seed", 1.5),
        ("version", 1),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"^run.ckpt has a damaged header: {name} is ") as caught:
        Header.from_dict(REQUIRED | {name: value}, "run.ckpt")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "length"),
    [
        ("class_names", ["a", "b"], 3),
        ("class_names", ["a", "b", "c", "d"], 3),
        ("class_names", ["a", "b", 3], 3),
        ("class_names", [], 3),
        ("mean", [0.5, 0.5, 0.5], 1),
        ("mean", ["0.5"], 1),
        ("mean", [None], 1),
        ("std", [], 1),
        ("std", [[1.0]], 1),
        ("std", [True], 1),
        ("metrics", {"test/top1": "high"}, 1),
    ],
)
def test_a_list_of_the_wrong_length_or_content_is_refused(name, value, length):
    with pytest.raises(
        UsageError,
        match=f"^run.ckpt has a damaged header: {name} should hold {length} (names|.*numbers)",
    ):
        Header.from_dict(REQUIRED | {name: value}, "run.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("std", [0.0], "should hold 1 finite numbers above 0"),
        ("std", [-0.3], "should hold 1 finite numbers above 0"),
        ("std", [float("nan")], "should hold 1 finite numbers above 0"),
        ("std", [float("inf")], "should hold 1 finite numbers above 0"),
        ("mean", [float("nan")], "should hold 1 finite numbers"),
        ("mean", [float("-inf")], "should hold 1 finite numbers"),
        ("std", [0.5, 0.5], "should hold 1 finite numbers above 0"),
        ("size_px", -1, "is -1, less than 1"),
        ("size_px", 0, "is 0, less than 1"),
        ("size_px", 10**6, "is 1000000, more than 16384"),
        ("num_classes", -1, "is -1, less than 0"),
        ("in_channels", 0, "is 0, less than 1"),
    ],
)
def test_an_impossible_value_is_refused_with_file_and_field(name, value, reason):
    with pytest.raises(UsageError) as caught:
        Header.from_dict(REQUIRED | {name: value}, "run.ckpt")
    given = f", not {value}" if isinstance(value, list) else ""
    assert str(caught.value) == f"run.ckpt has a damaged header: {name} {reason}{given}."


def test_a_metric_of_a_run_that_diverged_may_be_nan():
    header = Header.from_dict(REQUIRED | {"metrics": {"val/loss": float("nan")}}, "run.ckpt")
    assert header.metrics["val/loss"] != header.metrics["val/loss"]


def tower(kind):
    """A few bytes of a pickle that take longer to write down than anybody waits."""
    value = kind("x")
    for _ in range(60):
        value = kind([value, value, value])
    return value


@pytest.mark.parametrize("case", range(11))
def test_what_only_a_pickle_can_hold_is_refused_by_name(case):
    name, value = [
        ("network", tower(list)),
        ("network_options", {"widths": tower(list)}),
        ("network_options", {"widths": tower(tuple)}),
        ("network_options", {"widths": torch.ones(3)}),
        ("network_options", {"stem": {1, 2}}),
        ("network_options", {1: 2}),
        ("network_options", torch.ones(3)),
        ("attention_options", {"reduction": 10**5000}),
        ("metrics", {None: 1.0}),
        ("num_classes", 10**5000),
        ("seed", -(2**63)),
    ][case]
    with pytest.raises(
        UsageError, match=f"^run.ckpt has a damaged header: {name} is (of type|more than a few)"
    ):
        Header.from_dict(REQUIRED | {name: value}, "run.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "{",
        "\x00",
        "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        # Python reads no whole number of more than 4300 digits
        '{"format_version": 1, "network": ' + "9" * 5_000 + "}",
    ],
)
def test_what_is_no_json_is_refused_in_a_line(text):
    with pytest.raises(UsageError, match=r"^run\.safetensors has a damaged header: ") as caught:
        from_text(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["null", "3", '"text"', "[]", "{}", '{"format_version": 2}', '{"format_version": "1"}']
)
def test_another_format_is_refused_and_ours_named(text):
    with pytest.raises(
        UsageError, match=r"^run\.safetensors has a header of another format; .* reads format 1"
    ):
        from_text(text)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_file_of_others_is_told_how_to_get_a_header(metadata):
    with pytest.raises(UsageError, match=r"has no cbam_lightning header.*weights export"):
        Header.from_metadata(metadata, "theirs.safetensors")


def test_the_description_has_a_line_for_every_known_field():
    lines = FULL.describe().splitlines()
    assert [line.split()[0] for line in lines] == list(asdict(FULL))
    assert "class_names       Katze, chien, 狐" in lines
    assert "attention_options reduction=8, pools=['avg', 'max']" in lines
    assert [line.split()[0] for line in Header(**REQUIRED).describe().splitlines()] == [*REQUIRED, "averaged"]


def test_the_description_cuts_long_lists():
    names = tuple(f"c{i}" for i in range(100))
    line = replace(FULL, num_classes=100, class_names=names).describe().splitlines()[6]
    assert line == "class_names       c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, … (100 in all)"
