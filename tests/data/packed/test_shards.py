import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.data.image_decoding import UndecodableError, decode_image
from cbam_lightning.data.packed.shards import (
    DamagedShardError,
    Shard,
    ShardInfo,
    decode,
    read_index,
)
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image

LABEL = struct.pack("<q", 7)


def raw(pixels):
    """LitData's format of a uint8 tensor (H, W, 3), built literally."""
    return struct.pack(">5I", 11, 3, *pixels.shape) + pixels.tobytes()


def shard_bytes(images):
    """LitData's chunk, built literally: the count, the starts of the items, the items."""
    items = [struct.pack("<2I", len(image), len(LABEL)) + image + LABEL for image in images]
    starts = [4 * (len(items) + 2)]
    for item in items:
        starts.append(starts[-1] + len(item))
    return struct.pack(f"<{len(items) + 2}I", len(items), *starts) + b"".join(items)


def shard_of(content, count):
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    info = ShardInfo("chunk-0-0.bin", count, len(content), "")
    return Shard(lambda start, end: values[start:end].clone(), info)


def test_every_image_of_a_shard_is_read_on_its_own():
    pictures = [patches(1, 8 + i, 20 - i, i)[0] for i in range(5)]
    shard = shard_of(shard_bytes([raw(p) for p in pictures]), 5)
    for i in (3, 0, 4, 2, 1):
        image = decode(shard.image(i), "raw", 3)
        assert torch.equal(image, torch.from_numpy(pictures[i]).permute(2, 0, 1))


def test_what_was_left_out_is_empty():
    shard = shard_of(shard_bytes([b"", raw(patches(1, 4, 4)[0])]), 2)
    assert len(shard.image(0)) == 0


def test_jpeg_and_grey_values(tmp_path):
    pixels = patches(1, 40, 52)[0]
    save_image(pixels, tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    for channels in (1, 3):
        assert torch.equal(decode(stored, "jpeg", channels), decode_image(content, channels))
    grey = decode(torch.frombuffer(bytearray(raw(pixels)), dtype=torch.uint8), "raw", 1)
    assert torch.equal(grey[0], torch.from_numpy(np.array(Image.fromarray(pixels).convert("L"))))


@pytest.mark.parametrize(
    ("position", "number", "reason"),
    [
        (0, 4, "its table of images is damaged"),
        (4, 16, "its table of images is damaged"),
        (8, 2**31, "its table of images is damaged"),
        (16, 10**6, "its table of images is damaged"),
        (20, 10**6, "its place in the shard is damaged"),
        (24, 2**32 - 1, "its place in the shard is damaged"),
    ],
)
def test_damage_to_a_table_is_told(position, number, reason):
    content = bytearray(shard_bytes([raw(p) for p in patches(3, 6, 6)]))
    content[position : position + 4] = struct.pack("<I", number)
    with pytest.raises(DamagedShardError, match=reason):
        shard_of(content, 3).image(0)


def test_an_index_that_promises_too_much_is_told():
    with pytest.raises(DamagedShardError, match="its table"):
        shard_of(b"12345678", 10**9)


@pytest.mark.parametrize(
    "header",
    [(11, 3, 6, 7, 3), (1, 3, 6, 6, 3), (11, 2, 6, 6, 3), (11, 3, 0, 0, 3), (11, 3, 2**31, 2**31, 3)],
)
def test_a_shape_that_does_not_fit_is_told(header):
    content = bytearray(struct.pack(">5I", *header) + bytes(6 * 6 * 3))
    with pytest.raises(UndecodableError, match="its shape is damaged"):
        decode(torch.frombuffer(content, dtype=torch.uint8), "raw", 3)


@pytest.mark.parametrize("shape", [(1, 101, 3), (101, 1, 3)])
def test_a_line_is_refused_like_that_of_a_file(shape):
    values = torch.frombuffer(bytearray(raw(np.zeros(shape, dtype=np.uint8))), dtype=torch.uint8)
    with pytest.raises(UndecodableError, match="one side over 100 times the other"):
        decode(values, "raw", 3)


@pytest.mark.parametrize("length", [0, 5, 20])
def test_an_image_that_is_too_short_is_told(length):
    values = torch.zeros(length, dtype=torch.uint8)
    with pytest.raises(UndecodableError, match="its shape is damaged"):
        decode(values, "raw", 3)


def index(**changes):
    config = {
        "data_format": ["tensor", "int"],
        "compression": None,
        "encryption": None,
        "item_loader": "PyTreeLoader",
    }
    chunk = {"filename": "chunk-0-0.bin", "chunk_size": 3, "chunk_bytes": 100, "sha256": "ab" * 32}
    for name, value in changes.items():
        (chunk if name in chunk else config)[name] = value
    return json.dumps({"chunks": [chunk], "config": config}).encode()


def test_a_plain_index_is_read():
    assert read_index(index(), "raw", "here") == [ShardInfo("chunk-0-0.bin", 3, 100, "ab" * 32)]
    assert read_index(index(data_format=["bytes", "int"]), "jpeg", "here")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is not an index of LitData"),
        (b"[1, 2]", "it is not an index of LitData"),
        (b"[" * 100_000, "it is not an index of LitData"),
        (index(chunk_bytes=float("inf")), "it is not an index of LitData"),
        (index(data_format="\x1b[31m"), r"its items are '\\x1b\[31m', not"),
        (b'{"chunks": [{}], "config": {}}', "it is not an index of LitData"),
        (index(data_format=["pickle", "int"]), r"its items are \['pickle', 'int'\], not \['tensor', 'int'\]"),
        (index(data_format=["tensor", "pickle"]), "none of them was read"),
        (index(data_format=["bytes", "int"]), "its items are"),
        (index(data_format=["tensor"]), "its items are"),
        (index(compression="zstd"), "it was not written by `data pack`, which sets no compression"),
        (index(encryption={"algorithm": "fernet"}), "no encryption"),
        (index(item_loader="TokensLoader"), "no item_loader"),
        (index(filename="../../secret"), "'../../secret' with 3 images is not a shard"),
        (index(filename="/etc/passwd"), "is not a shard"),
        (index(filename="chunk-0-0.bin\n"), "is not a shard"),
        (index(chunk_size=0), "with 0 images is not a shard"),
    ],
)
def test_any_other_index_is_refused(content, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        read_index(content, "raw", "there/index.json")
    assert str(caught.value).startswith("there/index.json cannot be used: ")
