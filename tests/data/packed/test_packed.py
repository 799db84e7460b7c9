import hashlib
import json
import os
import pickle
import shutil
import struct
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer

from cbam_lightning.data import ImageFolder, ImageNet
from cbam_lightning.data.packed import packing
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image, write_image_folder, write_imagenet
from tests.data.packed.damage import flip, replace_index
from tests.data.test_data_module import Probe

CLASSES = ("cat", "dog", "fox")
SMALL = {"size_px": 24, "num_workers": 0}  # evaluation resizes the shorter side to 27


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 7)


def splits(data):
    """The names below the root and the labels of every split."""
    prefix = f"{data.root}/"
    return {
        split: (
            [data.sample_name(split, i).removeprefix(prefix) for i in range(len(data.split_set(split)))],
            data.split_set(split).labels.tolist(),
        )
        for split in ("train", "val", "test")
    }


def batch_of(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def write_flat(root):
    write_image_folder(root, images_per_class=10)


def write_train_val(root):
    write_image_folder(root / "train", images_per_class=6)
    write_image_folder(root / "val", images_per_class=2)


def write_train_val_test(root):
    write_train_val(root)
    write_image_folder(root / "test", images_per_class=3)


@pytest.mark.parametrize("write", [write_flat, write_train_val, write_train_val_test])
@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.0}, {"val_fraction": 0.3, "split_seed": 5}])
def test_an_image_folder_keeps_its_splits_and_its_evaluation(tmp_path, write, options):
    write(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", shorter_side_px=27, num_workers=1)
    files, packed = ImageFolder("pets", **SMALL, **options), ImageFolder("packed", **SMALL, **options)
    assert splits(packed) == splits(files)
    assert (packed.class_names, packed.num_classes) == (CLASSES, 3)
    assert packed.dataset_name == files.dataset_name == "image_folder:pets"
    for split in ("val", "test"):
        expected, batch = batch_of(files.split_set(split)), batch_of(packed.split_set(split))
        assert torch.equal(batch.images, expected.images)  # to the last bit
        assert torch.equal(batch.indices, expected.indices)
        assert batch.bad == ()


def test_names_of_any_kind_are_held_out_alike_and_have_one_digest(tmp_path):
    write_image_folder(tmp_path / "pets", images_per_class=10)
    names = ["Ä 1.jpg", unicodedata.normalize("NFD", "Ä 2.jpg"), "sub/a.jpg", "sub.jpg", "\udce4.jpg"]
    for number, name in enumerate(names):
        path = tmp_path / "pets" / "cat" / name
        path.parent.mkdir(exist_ok=True)
        (tmp_path / "pets" / "cat" / f"00{number}.jpg").rename(path)
    pack(ImageFolder("pets"), "packed", shorter_side_px=27, num_workers=1)
    options = {**SMALL, "val_fraction": 0.4, "test_fraction": 0.4}
    files, packed = ImageFolder("pets", **options), ImageFolder("packed", **options)
    assert splits(packed) == splits(files)
    assert packed.describe_splits() == files.describe_splits()


def test_imagenet_keeps_its_splits(tmp_path):
    write_imagenet(tmp_path / "imagenet", images_per_class=8)
    pack(ImageNet("imagenet"), "packed", encoding="jpeg", num_workers=1)
    files, packed = ImageNet("imagenet", **SMALL), ImageNet("packed", **SMALL)
    assert splits(packed) == splits(files)
    assert packed.dataset_name == "imagenet"
    # smaller than they may be, the files are kept as they are
    assert torch.equal(batch_of(packed.test_set).images, batch_of(files.test_set).images)
    assert splits(ImageFolder("packed", **SMALL)) == splits(ImageFolder("imagenet", **SMALL))


def test_imagenet_needs_its_parts(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    with pytest.raises(UsageError, match=r"packed/val is missing: packed were other parts"):
        ImageNet("packed")
    write_image_folder(tmp_path / "tests" / "val")
    pack(ImageNet("tests"), "tests_packed", num_workers=1)
    data = ImageNet("tests_packed", **SMALL)
    data.setup("test")
    with pytest.raises(UsageError, match=r"tests_packed/train is missing: packed were val"):
        data.setup("fit")


def test_shrunk_jpeg_is_nearly_the_same(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", encoding="jpeg", shorter_side_px=27, num_workers=1)
    expected, images = (batch_of(ImageFolder(root, **SMALL).test_set).images for root in ("pets", "packed"))
    difference = (images.float() - expected.float()).abs()
    assert 0 < difference.mean() < 6  # of 255; half of the 27 px images are edges


def test_grey_values_are_those_of_the_colours(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i, pixels in enumerate(patches(3, 40, 52)):
            save_image(pixels, tmp_path / "pets" / name / f"{i}.png")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    grey = {"in_channels": 1, "size_px": 35, "num_workers": 0}  # evaluation resizes to 40: as they are
    expected, images = (batch_of(ImageFolder(root, **grey).train_set).images for root in ("pets", "packed"))
    assert images.shape == expected.shape == (2, 1, 35, 35)
    expected, images = (batch_of(ImageFolder(root, **grey).test_set).images for root in ("pets", "packed"))
    assert torch.equal(images, expected)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_whole_run_reads_it(tmp_path, encoding, num_workers):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", encoding=encoding, num_workers=1)
    options = {"size_px": 24, "num_workers": num_workers, "batch_size": 8, "mixup_alpha": 0.4}
    data, probe = ImageFolder("packed", **options, predict_path="pets/cat"), Probe(3, 3)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    trainer.fit(probe, data)
    trainer.test(probe, data, verbose=False)
    trainer.predict(probe, data)
    assert [batch.images.shape for batch in probe.seen["train"]] == [(8, 3, 24, 24)] * 3
    assert probe.seen["train"][0].labels.shape == (8, 3)
    assert sum(len(batch.images) for batch in probe.seen["test"]) == 3
    assert sum(len(batch.images) for batch in probe.seen["predict"]) == 10
    assert data.sample_name("predict", 3) == "pets/cat/003.jpg"
    assert all(batch.images.is_contiguous() for batch in probe.seen["train"] + probe.seen["test"])


def test_training_is_random_and_follows_the_seed(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    batches = []
    for seed in (0, 0, 1):
        data = ImageFolder("packed", **SMALL)
        torch.manual_seed(seed)
        batches.append(next(iter(data.train_dataloader())))
    assert torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(batches[0].images, batches[2].images)
    assert sorted(batches[0].indices.tolist()) == list(range(24))


def test_skipped_files_are_missing_from_the_splits_that_they_would_be_in(tmp_path):
    write_image_folder(tmp_path / "pets")
    for name in ("cat/003.jpg", "dog/004.jpg", "fox/000.jpg"):
        (tmp_path / "pets" / name).write_text("no image")
    pack(ImageFolder("pets"), "packed", on_bad_image="skip", num_workers=1)
    options = {**SMALL, "val_fraction": 0.3, "test_fraction": 0.3}
    files, packed = splits(ImageFolder("pets", **options)), splits(ImageFolder("packed", **options))
    bad = {"cat/003.jpg", "dog/004.jpg", "fox/000.jpg"}
    for split, (names, labels) in files.items():
        kept = [(name, label) for name, label in zip(names, labels, strict=True) if name not in bad]
        assert list(zip(*packed[split], strict=True)) == kept
    assert sum(len(names) for names, _ in packed.values()) == 27
    assert not batch_of(ImageFolder("packed", **options).train_set).bad


class Marker:
    def __reduce__(self):
        return (Path.touch, (Path("hacked"),))


def test_a_pickle_in_a_strangers_set_is_refused_and_not_run(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    index = json.loads(Path("packed/index.json").read_text())
    index["config"]["data_format"] = ["pickle", "int"]
    item = pickle.dumps(Marker())
    content = struct.pack("<3I", 1, 12, 20 + len(item)) + struct.pack("<2I", len(item), 0) + item
    for shard in index["chunks"]:
        Path("packed", shard["filename"]).write_bytes(content)
    replace_index(Path("packed"), index)
    data = ImageFolder("packed", **SMALL)
    with pytest.raises(
        UsageError, match=r"packed/index.json cannot be used: its items are \['pickle', 'int'\]"
    ):
        data.setup("fit")
    assert not Path("hacked").exists()
    pickle.loads(item)
    assert Path("hacked").exists()  # so it would have run


def test_shards_that_are_missing_or_cut_are_found_before_the_training(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    shard = Path("packed/chunk-2-0.bin")
    content = shard.read_bytes()
    shard.write_bytes(content[:-5])
    expected = rf"chunk-2-0.bin has {len(content) - 5} bytes instead of {len(content)}; copy it again"
    with pytest.raises(UsageError, match=expected):
        ImageFolder("packed", **SMALL).setup("fit")
    shard.unlink()
    with pytest.raises(UsageError, match=r"chunk-2-0\.bin has 0 bytes instead"):
        ImageFolder("packed", **SMALL).setup("test")


def test_indices_that_do_not_belong_together_are_refused(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    index = json.loads(Path("packed/index.json").read_text())
    Path("packed/index.json").write_text(json.dumps(index, indent=1))
    with pytest.raises(UsageError, match=r"it is not the one that packed-index\.json was written with"):
        ImageFolder("packed", **SMALL).setup("fit")
    index["chunks"].pop()
    replace_index(Path("packed"), index)
    with pytest.raises(UsageError, match=r"its shards do not hold the 30 images of packed-index\.json"):
        ImageFolder("packed", **SMALL).setup("fit")
    Path("packed/index.json").unlink()
    with pytest.raises(UsageError, match=r"index\.json cannot be used: there is no such file"):
        ImageFolder("packed", **SMALL).setup("fit")


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_an_image_that_was_packed_wrongly_is_a_bad_image(tmp_path, policy):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    start = struct.unpack_from("<I", Path("packed/chunk-1-0.bin").read_bytes(), 4)[0]
    flip(Path("packed/chunk-1-0.bin"), start + 8 + 8)  # the height of the first image
    replace_index(Path("packed"), json.loads(Path("packed/index.json").read_text()))
    data = ImageFolder("packed", **SMALL, on_bad_image=policy)
    batches = [batch_of(data.split_set(split)) for split in ("train", "val", "test")]
    (bad,) = [bad for batch in batches for bad in batch.bad]
    assert bad.reason == "in packed/chunk-1-0.bin, its shape is damaged"
    (batch,) = [batch for batch in batches if batch.bad]
    if policy == "skip":
        assert len(data.on_before_batch_transfer(batch, 0).images) == len(batch.images)
        assert data.skipped_images == [bad.path]
    else:
        with pytest.raises(
            UsageError, match=r"cannot decode .*\.jpg: in packed/chunk-1-0\.bin, its shape is"
        ):
            data.on_before_batch_transfer(batch, 0)


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("position", [2, 300, -1])
def test_a_flipped_byte_of_a_shard_ends_the_run_in_any_case(tmp_path, policy, position):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    flip(Path("packed/chunk-1-0.bin"), position)  # of the table, an image, a label
    data = ImageFolder("packed", **SMALL, on_bad_image=policy)
    batch = batch_of(data.train_set)
    with pytest.raises(OSError, match=r"has another SHA-256 than .*copy it again, or pack again: ") as caught:
        data.on_before_batch_transfer(batch, 0)
    assert caught.value.filename == "packed/chunk-1-0.bin"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shard_that_is_cut_while_it_is_read_ends_the_run(tmp_path, num_workers):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    data = ImageFolder("packed", size_px=24, batch_size=2, num_workers=num_workers)
    batches = iter(data.train_dataloader())
    assert not next(batches).bad
    for path in Path("packed").glob("*.bin"):
        os.truncate(path, 100)
    batch = next(batch for batch in batches if batch.bad)  # after those that were read already
    # A worker that was just comparing the whole content finds another fault of the same shard.
    found = "(it has 100 bytes; its index|its content has another SHA-256 than its index) says.*"
    with pytest.raises(OSError, match=f"{found}; copy it again, or pack again"):
        data.on_before_batch_transfer(batch, 0)


def test_splits_of_one_part_check_each_shard_once(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    digest, checked = hashlib.file_digest, []
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: (checked.append(file.name), digest(file, name))[1]
    )
    data = ImageFolder("packed", **SMALL)
    for split in ("train", "val", "test", "train"):
        batch_of(data.split_set(split))
    assert sorted(map(str, checked)) == [f"packed/chunk-{number}-0.bin" for number in range(5)]


def test_a_shard_of_another_pack_with_its_name_and_size_is_refused(tmp_path):
    for name, classes in {"a": ("cat", "dog"), "b": ("fox", "owl")}.items():
        write_image_folder(tmp_path / name, classes)
    for path in Path("b").rglob("*.jpg"):
        save_image(np.flip(np.array(Image.open(path))), path)
    packs = [pack(ImageFolder(name), f"{name}_packed", num_workers=1) for name in "ab"]
    assert packs[0].num_bytes == packs[1].num_bytes
    shutil.copyfile("b_packed/chunk-0-0.bin", "a_packed/chunk-0-0.bin")
    data = ImageFolder("a_packed", **SMALL)
    with pytest.raises(OSError, match=r"another SHA-256 than its index says"):
        data.on_before_batch_transfer(batch_of(data.train_set), 0)
    shutil.copyfile("b_packed/index.json", "a_packed/index.json")
    with pytest.raises(UsageError, match=r"it is not the one that packed-index\.json was written with"):
        ImageFolder("a_packed", **SMALL).setup("fit")


@pytest.mark.parametrize("name", ["index.json", "packed-index.json"])
def test_an_index_with_any_byte_flipped_or_cut_is_refused(tmp_path, name):
    write_image_folder(tmp_path / "pets", images_per_class=2)
    pack(ImageFolder("pets"), "packed", num_workers=1)
    path = Path("packed", name)
    content = path.read_bytes()
    for position in [*range(0, len(content), 7), *range(90)]:
        flip(path, position)
        with pytest.raises(UsageError, match=rf"packed/{name} cannot be used: .*; copy it again, or pack"):
            ImageFolder("packed", **SMALL).setup("fit")
        path.write_bytes(content)
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=rf"packed/{name} cannot be used"):
            ImageFolder("packed", **SMALL).setup("fit")


def test_images_too_small_for_the_evaluation_are_mentioned(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", shorter_side_px=27, num_workers=1)
    with pytest.warns(UserWarning, match=r"shrunk to a shorter side of 27 px; .* --shorter-side-px 37"):
        ImageFolder("packed", size_px=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageFolder("packed", size_px=24)


def test_a_folder_is_read_without_litdata(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    for name in [name for name in sys.modules if name.split(".")[0] == "litdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litdata", None)
    assert len(batch_of(ImageFolder("packed", **SMALL).train_set).images) == 24
    with pytest.raises(UsageError, match=r"reading them from a URL need LitData: pip install"):
        ImageFolder("s3://nowhere/pets")


def test_a_data_set_reaches_worker_processes_that_are_spawned(tmp_path):
    write_image_folder(tmp_path / "pets")
    pack(ImageFolder("pets"), "packed", num_workers=1)
    dataset = ImageFolder("packed", **SMALL).test_set
    expected = batch_of(dataset)
    assert torch.equal(batch_of(pickle.loads(pickle.dumps(dataset))).images, expected.images)
