import json

import pytest

from cbam_lightning.data.packed.packed_index import PackedIndex, PackedPart, PackingSummary
from cbam_lightning.errors import UsageError
from tests.data.packed.damage import sealed

PART = PackedPart(
    ["cat/größe\n1.jpg", "cat/b.jpg", "dog/c.jpg"], [2, 0, 1], {1: "it is truncated"}, "ab" * 32
)
INDEX = PackedIndex("pets", ("cat", "dog"), "raw", 256, {"train": PART})


def test_what_is_written_is_read():
    assert PackedIndex.from_json(INDEX.to_json().encode(), "here") == INDEX
    assert PART.labels(("dog", "cat")) == [1, 1, 0]


def test_names_of_any_bytes_survive():
    part = PackedPart(["cat/\udcff.jpg"], [0], {}, "")
    index = PackedIndex("pets", ("cat",), "jpeg", 256, {"": part})
    assert PackedIndex.from_json(index.to_json().encode(), "here") == index


def test_an_index_of_an_early_version_has_no_hash():
    fields = json.loads(INDEX.to_json())
    del fields["sha256"]
    assert PackedIndex.from_json(json.dumps(fields).encode(), "here") == INDEX


def test_any_other_byte_is_told():
    content = INDEX.to_json().encode()
    for position in range(len(content)):
        damaged = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(UsageError, match=r"^there cannot be used: "):
            PackedIndex.from_json(damaged, "there")


def changed(**changes):
    fields = json.loads(INDEX.to_json())
    part = fields["parts"]["train"]
    for name, value in changes.items():
        (part if name in part else fields)[name] = value
    del fields["sha256"]
    return sealed(fields)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no JSON", "it is not an index of packed images"),
        (b"[]", "it is not an index of packed images"),
        (b"{}", "it is not an index of packed images"),
        (b"[" * 100_000, "it is not an index of packed images"),
        (changed(names=["cat/\ud800", "cat/b.jpg", "dog/c.jpg"]), "it is not an index of packed images"),
        (changed(parts=[1]), "it is not an index of packed images"),
        (changed(names=["owl/a.jpg", "cat/b.jpg", "cat/c.jpg"]), "it is not an index of packed images"),
        (changed(more=1), "it is not an index of packed images"),
        (changed(format=2), "its format is 2, where this version reads 1"),
        (changed(order=[0, 1]), "its lists do not fit each other"),
        (changed(order=[0, 1, 1]), "its lists do not fit each other"),
        (changed(order=[0, 1, 10**12]), "its lists do not fit each other"),
        (changed(order=[2.0, 0, True]), "its lists do not fit each other"),
        (changed(names=["cat/" + "a" * 4093, "cat/b.jpg", "dog/c.jpg"]), "its lists do not fit each other"),
        (changed(name=5), "its lists do not fit each other"),
        (changed(classes=["cat", "dog", 5]), "its lists do not fit each other"),
        (changed(shorter_side_px="256"), "its lists do not fit each other"),
        (changed(encoding="pickle"), "its lists do not fit each other"),
        (changed(parts={"../../etc": json.loads(INDEX.to_json())["parts"]["train"]}), "do not fit"),
    ],
)
def test_damage_is_told(content, problem):
    with pytest.raises(UsageError, match=f"^there cannot be used: .*{problem}"):
        PackedIndex.from_json(content, "there")


def test_the_description_has_the_numbers_and_what_was_left_out():
    text = PackingSummary(INDEX, num_shards=2, num_bytes=3000).describe()
    assert "train             2\n" in text
    assert "3000 in 2 shards, 1500 per image" in text
    assert "train/cat/b.jpg: it is truncated" in text
