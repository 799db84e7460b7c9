"""Damaged idx files, CIFAR batches, indices and shards are read or refused."""

import contextlib
import gzip
import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from cbam_lightning.data import CIFAR10, FashionMNIST, ImageFolder
from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.fashion_mnist import FILE_STEMS
from cbam_lightning.data.idx import read_idx
from cbam_lightning.data.image_decoding import UndecodableError
from cbam_lightning.data.packed.packed_index import PACKED_INDEX, PackedIndex
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.data.packed.shards import (
    INDEX_NAME,
    DamagedShardError,
    Shard,
    ShardInfo,
    decode,
    read_index,
)
from cbam_lightning.errors import UsageError
from tests.data.generate import (
    accept_checksums,
    patches,
    write_cifar10,
    write_fashion_mnist,
    write_image_folder,
)
from tests.data.packed.damage import sealed
from tests.data.packed.test_shards import raw, shard_bytes
from tests.fuzz.damage import altered, damaged, fuzz, json_values, lengths

IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
PICTURES = [raw(picture) for picture in patches(4, 6, 9)]
SHARD = shard_bytes([PICTURES[0], b"", *PICTURES[1:]])
# A name in an index need not be that of a file.
REFUSED = (UsageError, OSError)


@lengths(60, 1_500)
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_idx_file(examples, name):
    contents = (IDX,) if name == "images" else (gzip.compress(IDX), gzip.compress(IDX, 0))
    sizes = st.lists(st.sampled_from([0, 1, 2, 3, 2**10, 2**31, 2**32 - 1]), min_size=3, max_size=3)
    claims = sizes.map(lambda lengths: IDX[:4] + struct.pack(">3I", *lengths) + IDX[16:])
    claims = claims if name == "images" else claims.map(gzip.compress)

    def read(content):
        Path(name).write_bytes(content)
        assert read_idx(Path(name), num_axes=3).size < 100

    fuzz(examples, st.one_of(damaged(*contents), claims), read, UsageError)


@lengths(12, 200)
@pytest.mark.parametrize("stem", FILE_STEMS)
def test_a_set_of_idx_files(examples, stem, tmp_path):
    write_fashion_mnist(tmp_path / "root", images_per_class=1, compressed=False)
    path = tmp_path / "root" / stem

    def read(content):
        path.write_bytes(content)
        data = FashionMNIST(source="full", root="root", num_workers=0)
        for split in ("train", "test"):
            assert 0 <= data.split_set(split).labels.min() <= data.split_set(split).labels.max() < 10

    fuzz(examples, damaged(path.read_bytes()), read, REFUSED)


@lengths(10, 100)
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_pickle_of_cifar(examples, name, tmp_path):
    path = write_cifar10(tmp_path, images_per_class=1) / name

    def read(content):
        path.write_bytes(content)
        CIFAR10(root=str(tmp_path)).setup("test")

    with accept_checksums(tmp_path):
        hostile = b"cos\nsystem\n(S'touch canary'\ntR."
        fuzz(examples, st.one_of(damaged(path.read_bytes()), st.just(hostile)), read, REFUSED)
    assert not Path("canary").exists()


SHARDS = [
    {"filename": f"chunk-0-{i}.bin", "chunk_size": 3, "chunk_bytes": 100, "sha256": "ab"} for i in (0, 1)
]
LITDATA = {
    "chunks": SHARDS,
    "config": {"data_format": ["tensor", "int"], "compression": None, "item_loader": "PyTreeLoader"},
}
PART = {
    "names": ["cat/größe\n1.jpg", "cat/b.jpg", "dog/c.jpg"],
    "order": [2, 0, 1],
    "skipped": {"1": "it is truncated"},
    "index_sha256": "ab" * 32,
}
PACKED = {
    "format": 1,
    "name": "pets",
    "classes": ["cat", "dog"],
    "encoding": "raw",
    "shorter_side_px": 256,
    "parts": {"train": PART, "val": PART},
}
DEEP = (b"[" * 100_000, b'{"a":' * 100_000)


def texts(document):
    """Draw the JSON of a document with changed values or bytes."""
    changed = altered(document).map(lambda changed: json.dumps(changed).encode())
    others = json_values().map(lambda value: json.dumps(value).encode())
    return st.one_of(changed, changed, damaged(json.dumps(document).encode()), others, st.sampled_from(DEEP))


@lengths(50, 2_000)
def test_an_index_of_shards(examples):
    def read(content):
        for shard in read_index(content, "raw", "here"):
            assert Path(shard.name).name == shard.name
            assert isinstance(shard.num_bytes, int)
            assert shard.num_images > 0

    fuzz(examples, texts(LITDATA), read, UsageError)


@lengths(50, 2_000)
def test_an_index_of_a_packed_set(examples):
    def read(content):
        index = PackedIndex.from_json(content, "here")
        assert set(index.parts) <= {"", "train", "val", "test"}
        for part in index.parts.values():
            assert torch.tensor(part.order).sort().values.tolist() == list(range(len(part.names)))
            assert all(0 <= label < len(index.classes) for label in part.labels(index.classes))

    fuzz(examples, texts(PACKED), read, UsageError)


@lengths(50, 2_000)
def test_a_shard(examples):
    sizes = st.one_of(st.just(5), st.integers(1, 7), st.just(10**6))

    def read(drawn):
        content, count = drawn
        values = torch.tensor(list(content), dtype=torch.uint8)
        info = ShardInfo("chunk-0-0.bin", count, len(content), "")
        shard = Shard(lambda start, end: values[start:end].clone(), info)
        for i in range(count):
            if len(image := shard.image(i)):
                pixels = EvalTransform(8, 9)(decode(image, "raw", 3))
                assert pixels.shape == (3, 8, 8)

    values = st.tuples(damaged(SHARD), sizes)
    fuzz(examples, values, read, (DamagedShardError, UndecodableError))


@pytest.fixture
def packed(tmp_path):
    write_image_folder(tmp_path / "pets", images_per_class=4)
    pack(ImageFolder("pets"), "packed", num_workers=1, shorter_side_px=27)
    shutil.rmtree(tmp_path / "pets")
    return tmp_path / "packed"


@lengths(20, 500)
def test_a_packed_set_that_was_tampered_with(examples, packed, tmp_path):
    """Both indices and the shard are changed, and the hashes are then made consistent with them."""
    texts = {name: json.loads((packed / name).read_text()) for name in (PACKED_INDEX, INDEX_NAME)}
    (shard,) = packed.glob("*.bin")
    before = sorted(tmp_path.rglob("*"))

    def read(drawn):
        own, litdata, content = drawn
        own.pop("sha256", None)
        with contextlib.suppress(TypeError, KeyError, IndexError):
            litdata["chunks"][0]["sha256"] = hashlib.sha256(content).hexdigest()
        (packed / INDEX_NAME).write_text(json.dumps(litdata))
        if own["parts"] and isinstance(own["parts"].get(""), dict):
            digest = hashlib.sha256((packed / INDEX_NAME).read_bytes()).hexdigest()
            own["parts"][""]["index_sha256"] = digest
        (packed / PACKED_INDEX).write_bytes(sealed(own))
        shard.write_bytes(content)
        data = ImageFolder("packed", size_px=8, num_workers=0)
        for split in ("train", "val", "test"):
            batch = data.split_set(split).__getitems__(list(range(len(data.split_set(split)))))
            data.on_before_batch_transfer(batch, 0)

    whole = shard.read_bytes()
    # of the same length, since a different length is noticed at once
    content = damaged(whole).map(lambda changed: (changed + whole[len(changed) :])[: len(whole)])
    own = altered(texts[PACKED_INDEX]).filter(lambda changed: isinstance(changed.get("parts"), dict))
    fuzz(examples, st.tuples(own, altered(texts[INDEX_NAME]), content), read, REFUSED)
    assert sorted(tmp_path.rglob("*")) == before
