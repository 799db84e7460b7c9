import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.data import ImageFolder, ImageNet
from cbam_lightning.data.packed import packed_dataset, packing, stores
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.data.packed.stores import FolderStore, ObjectStore, cache_root, is_url
from cbam_lightning.errors import UsageError
from tests.data.generate import save_image, write_image_folder, write_imagenet
from tests.data.packed.damage import flip

SMALL = {"size_px": 24, "num_workers": 0}


def batch_of(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Thirty images in five shards."""
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 7)
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    return Path("packed")


@pytest.mark.parametrize(
    ("root", "expected"),
    [("s3://bucket/a", True), ("gs://a", True), ("local:/data/a", True), ("/data/a", False), ("a", False)],
)
def test_urls_are_told_from_paths(root, expected):
    assert is_url(root) == expected


def test_the_cache_is_where_the_user_says(monkeypatch):
    monkeypatch.setenv("LITDATA_CACHE_DIR", "/somewhere")
    assert cache_root() == Path("/somewhere/cbam_lightning")
    monkeypatch.delenv("LITDATA_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_root() == Path("/home/somebody/.lightning/chunks/cbam_lightning")


def test_a_folder_is_read_where_it_is(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    store = FolderStore(tmp_path)
    assert store.holds("a")
    assert (store.path("a"), store.where("a"), store.is_remote) == (
        tmp_path / "a",
        str(tmp_path / "a"),
        False,
    )


def test_a_bucket_is_read_as_the_folder_is(pets, bucket):
    bucket.add_folder(pets, "bucket/my pets")
    local, remote = ImageFolder("packed", **SMALL), ImageFolder("s3://bucket/my pets/", **SMALL)
    assert remote.dataset_name == "image_folder:pets"
    for split in ("train", "val", "test"):
        expected, batch = local.split_set(split), remote.split_set(split)
        assert [batch.name(i) for i in range(len(batch))] == [expected.name(i) for i in range(len(expected))]
        assert torch.equal(batch.labels, expected.labels)
        if split != "train":
            assert torch.equal(batch_of(batch).images, batch_of(expected).images)
    assert not batch_of(remote.train_set).bad
    fetched = [name for name, _ in bucket.asked if name.endswith(".bin")]
    bucket.asked.clear()
    again = ImageFolder("s3://bucket/my pets", **SMALL)
    again.setup()
    assert len(batch_of(again.train_set).images) == 24
    assert {name for name, _ in bucket.asked} == {"bucket/my pets/packed-index.json"}  # the rest was kept
    assert len(fetched) > 0


def test_worker_processes_fetch_every_shard_once(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    data = ImageFolder("s3://bucket/pets", size_px=24, num_workers=2, batch_size=4)
    loader = data.train_dataloader()
    batches = list(loader)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(24))
    assert not any(batch.bad for batch in batches)
    asked = [name for name, given in bucket.asked if name.endswith(".bin")]
    assert len(asked) == 2 * len(set(asked)) == 10  # for each, its length and its content


def test_only_what_has_to_be_fetched_is_ordered_by_shards(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    orders = []
    for root in ("packed", "s3://bucket/pets"):
        dataset = ImageFolder(root, **SMALL).train_set
        orders.append(dataset.train_share(torch.Generator().manual_seed(0), 1, 0))
    assert torch.equal(orders[0], torch.randperm(24, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(orders[0], orders[1])
    assert orders[1].sort().values.tolist() == list(range(24))


def test_images_in_a_bucket_are_not_drawn_all_over(pets, bucket, monkeypatch):
    bucket.add_folder(pets, "bucket/pets")
    assert len(list(ImageFolder("packed", **SMALL, balanced=True, batch_size=8).train_dataloader())) == 3
    remote = ImageFolder("s3://bucket/pets", **SMALL, balanced=True)
    with pytest.raises(UsageError, match="fetched from an object store shard by shard; copy it to this mach"):
        remote.train_dataloader()
    monkeypatch.setattr(packed_dataset, "SPARSE_SHARE", 0.9)  # then each image is read by itself
    assert len(ImageFolder("s3://bucket/pets", **SMALL, balanced=True, batch_size=8).train_dataloader()) == 3


def test_few_images_are_read_without_their_shards(pets, bucket, monkeypatch):
    monkeypatch.setattr(packed_dataset, "SPARSE_SHARE", 0.15)
    bucket.add_folder(pets, "bucket/pets")
    local, remote = ImageFolder("packed", **SMALL), ImageFolder("s3://bucket/pets", **SMALL)
    assert len(remote.val_set) == 3
    assert torch.equal(batch_of(remote.val_set).images, batch_of(local.val_set).images)
    ranges = [given for name, given in bucket.asked if name.endswith(".bin")]
    assert None not in ranges
    sizes = [
        int(last) - int(first) + 1 for first, last in (r.removeprefix("bytes=").split("-") for r in ranges)
    ]
    assert sum(sizes) < sum(path.stat().st_size for path in pets.glob("*.bin")) / 4
    assert not list(cache_root().rglob("*.bin"))
    batch_of(remote.train_set)  # fetches all shards
    bucket.asked.clear()
    assert torch.equal(batch_of(remote.val_set).images, batch_of(local.val_set).images)
    assert bucket.asked == []


def test_what_was_packed_again_is_fetched_again(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    first = batch_of(ImageFolder("s3://bucket/pets", **SMALL).test_set)
    for path in Path("pets").rglob("*.jpg"):  # of the same size
        save_image(255 - np.array(Image.open(path)), path)
    shutil.rmtree("packed")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    bucket.add_folder(pets, "bucket/pets")
    again = batch_of(ImageFolder("s3://bucket/pets", **SMALL).test_set)
    assert torch.equal(again.images, batch_of(ImageFolder("packed", **SMALL).test_set).images)
    assert not torch.equal(first.images, again.images)


def test_imagenet_comes_from_a_bucket_too(tmp_path, bucket):
    write_imagenet(tmp_path / "imagenet")
    pack(ImageNet("imagenet"), "packed", encoding="jpeg", num_workers=1)
    bucket.add_folder(Path("packed"), "bucket/imagenet")
    data = ImageNet("s3://bucket/imagenet", **SMALL)
    expected = ImageNet("imagenet", **SMALL)
    assert torch.equal(batch_of(data.test_set).images, batch_of(expected.test_set).images)


def test_what_is_not_there_is_named(pets, bucket):
    with pytest.raises(
        UsageError,
        match=r"could not fetch s3://bucket/none/packed-index\.json: .*404.* Check .*--data\.root s3://bucket/none",
    ):
        ImageFolder("s3://bucket/none")
    bucket.add_folder(pets, "bucket/pets")
    del bucket.files["bucket/pets/chunk-1-0.bin"]
    data = ImageFolder("s3://bucket/pets", **SMALL, on_bad_image="skip")
    batch = batch_of(data.train_set)
    with pytest.raises(OSError, match=r"could not fetch s3://bucket/pets/chunk-1-0\.bin: .*404"):
        data.on_before_batch_transfer(batch, 0)
    assert len(batch.bad) == 1  # and not every image of the shard, each after a time-out


def test_a_broken_connection_leaves_nothing_half(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    bucket.cut.add("bucket/pets/chunk-1-0.bin")
    data = ImageFolder("s3://bucket/pets", **SMALL)
    batch = batch_of(data.train_set)
    with pytest.raises(OSError, match=r"could not fetch s3://bucket/pets/chunk-1-0\.bin"):
        data.on_before_batch_transfer(batch, 0)
    assert not list(cache_root().rglob("chunk-1-0.bin"))
    bucket.cut.clear()
    assert not batch_of(data.train_set).bad


def test_what_was_fetched_is_checked(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    whole = bucket.files["bucket/pets/chunk-1-0.bin"]
    bucket.files["bucket/pets/chunk-1-0.bin"] = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    data = ImageFolder("s3://bucket/pets", **SMALL)
    batch = batch_of(data.train_set)
    with pytest.raises(OSError, match=r"another SHA-256 than its index says; delete its copy ") as caught:
        data.on_before_batch_transfer(batch, 0)
    assert caught.value.filename == "s3://bucket/pets/chunk-1-0.bin"
    bucket.files["bucket/pets/chunk-1-0.bin"] = whole
    (copy,) = cache_root().rglob("chunk-1-0.bin")
    assert str(copy) in str(caught.value)
    copy.unlink()
    assert not batch_of(data.train_set).bad


def test_a_damaged_copy_of_an_index_is_named(pets, bucket):
    bucket.add_folder(pets, "bucket/pets")
    batch_of(ImageFolder("s3://bucket/pets", **SMALL).test_set)
    (copy,) = cache_root().rglob("index.json")
    copy.write_bytes(copy.read_bytes()[:-50])
    with pytest.raises(UsageError, match=rf"index\.json cannot be used: .*; delete its copy {copy} to"):
        ImageFolder("s3://bucket/pets", **SMALL).setup("fit")


def test_copies_are_checked_also_if_few_images_are_read(pets, bucket, monkeypatch):
    monkeypatch.setattr(packed_dataset, "SPARSE_SHARE", 0.15)
    bucket.add_folder(pets, "bucket/pets")
    data = ImageFolder("s3://bucket/pets", **SMALL)
    assert not batch_of(data.val_set).bad
    batch_of(data.train_set)
    for copy in cache_root().rglob("*.bin"):
        flip(copy, 500)
    (bad,) = batch_of(data.val_set).bad
    assert "another SHA-256" in bad.reason


def test_a_disk_without_room_is_refused_before_the_training(pets, bucket, monkeypatch):
    bucket.add_folder(pets, "bucket/pets")
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda folder: usage)
    data = ImageFolder("s3://bucket/pets", **SMALL)
    with pytest.raises(UsageError, match=r"GB more in .*, which has 0.0 GB free; set LITDATA_CACHE_DIR to"):
        data.setup("fit")


@pytest.mark.parametrize("url", ["local:", "nonsense://bucket/"])
def test_other_places_are_those_that_litdata_knows(pets, url, monkeypatch, tmp_path):
    monkeypatch.setenv("LITDATA_CACHE_DIR", str(tmp_path / "cache"))
    if url == "local:":
        data = ImageFolder(f"local:{pets.resolve()}", **SMALL)
        assert torch.equal(
            batch_of(data.test_set).images, batch_of(ImageFolder("packed", **SMALL).test_set).images
        )
    else:
        with pytest.raises(UsageError, match=r"could not fetch nonsense://bucket/packed-index\.json: "):
            ImageFolder(url)


def fetch_slowly(cache_dir):
    def slow(url, target):
        with (cache_dir / "fetched").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        target.write_bytes(b"content")

    stores.fetch_file = slow  # in this process only
    return ObjectStore("s3://bucket", cache_dir).path("a").read_bytes()


def test_of_several_processes_one_fetches(tmp_path):
    with ProcessPoolExecutor(3) as executor:
        assert list(executor.map(fetch_slowly, [tmp_path] * 3)) == [b"content"] * 3
    assert (tmp_path / "fetched").read_text() == "x"
