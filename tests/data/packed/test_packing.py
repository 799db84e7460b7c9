import json
import os
import re
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from cbam_lightning.data import ImageFolder, ImageNet
from cbam_lightning.data.image_decoding import decode_image
from cbam_lightning.data.packed import packing, packing_folder, shard_writer
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.errors import UsageError
from tests.command import call
from tests.data.generate import patches, save_image, write_image_folder, write_imagenet
from tests.data.packed.damage import flip
from tests.processes import fork


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 4)


@pytest.fixture
def pets(tmp_path):
    return write_image_folder(tmp_path / "pets", images_per_class=4)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.is_file()
    }


def read_with_litdata(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    litdata = pytest.importorskip("litdata")
    dataset = litdata.StreamingDataset(str(folder))
    return [dataset[i] for i in range(len(dataset))]


def test_litdata_itself_reads_what_was_packed(pets, tmp_path, monkeypatch):
    index = pack(ImageFolder(str(pets)), "raw", shorter_side_px=30, num_workers=1).index
    part = index.parts[""]
    items = read_with_litdata(Path("raw"), monkeypatch, tmp_path)
    assert len(items) == 12
    for (image, label), position in zip(items, part.order, strict=True):
        path = pets / part.names[position]
        pixels = decode_image(path.read_bytes(), 3)
        assert torch.equal(image.permute(2, 0, 1), F.resize(pixels, 30, antialias=True))
        assert ("cat", "dog", "fox")[label] == path.parent.name


def test_jpeg_is_encoded_again_only_if_it_is_shrunk(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "pets", ["cat", "dog"], 1)
    save_image(patches(1, 40, 52)[0], tmp_path / "pets" / "cat" / "001.png")
    save_image(patches(1, 80, 104)[0], tmp_path / "pets" / "cat" / "002.jpg")
    part = pack(ImageFolder("pets"), "jpeg", encoding="jpeg", shorter_side_px=40, num_workers=1).index.parts[
        ""
    ]
    items = read_with_litdata(Path("jpeg"), monkeypatch, tmp_path)
    stored = {
        part.names[position]: bytes(image) for (image, _), position in zip(items, part.order, strict=True)
    }
    for name in ("cat/000.jpg", "dog/000.jpg"):
        assert stored[name] == (tmp_path / "pets" / name).read_bytes()
    for name in ("cat/001.png", "cat/002.jpg"):
        expected = F.resize(decode_image((tmp_path / "pets" / name).read_bytes(), 3), 40, antialias=True)
        difference = decode_image(stored[name], 3).float() - expected
        assert difference.shape == (3, 40, 52)
        assert difference.abs().mean() < 5  # JPEG is lossy


def test_what_may_be_trained_on_is_shuffled_once_and_for_all(tmp_path):
    write_imagenet(tmp_path / "imagenet", images_per_class=6)
    index = pack(ImageNet("imagenet"), "packed", num_workers=1).index
    assert sorted(index.parts["train"].order) == list(range(18)) != index.parts["train"].order
    assert index.parts["val"].order == list(range(9))
    assert index == pack(ImageNet("imagenet"), "again", num_workers=1).index
    assert contents(Path("packed")) == contents(Path("again"))


@pytest.mark.parametrize("num_workers", [2, None])
def test_processes_change_nothing(pets, num_workers):
    pack(ImageFolder(str(pets)), "one", num_workers=1)
    pack(ImageFolder(str(pets)), "several", num_workers=num_workers)
    assert contents(Path("one")) == contents(Path("several"))
    names = sorted(path.name for path in Path("one").iterdir())
    assert names == [*(f"chunk-{i}-0.bin" for i in range(3)), "index.json", "packed-index.json"]


def test_an_interrupted_packing_goes_on(pets, monkeypatch):
    pack(ImageFolder(str(pets)), "whole", num_workers=1)
    encode = shard_writer._encoded
    paths = []

    def stop_at_the_sixth(path, *options):
        paths.append(path)
        if len(paths) == 6:
            raise KeyboardInterrupt
        return encode(path, *options)

    monkeypatch.setattr(shard_writer, "_encoded", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder(str(pets)), "out", num_workers=1)
    with pytest.raises(UsageError, match="out has 0 class folders"):
        ImageFolder("out")
    Path("out/.1-left-by-a-killed-process").mkdir()
    with pytest.raises(
        UsageError,
        match=r"out holds an unfinished packing of other images or with .* \(encoding\); repeat",
    ):
        pack(ImageFolder(str(pets)), "out", encoding="jpeg", num_workers=1)
    packed = pack(ImageFolder(str(pets)), "out", num_workers=1)
    assert len(paths) == 6 + 8  # the first four were packed already
    assert contents(Path("out")) == contents(Path("whole"))
    assert not list(Path("out").glob(".*-*"))
    assert (packed.num_shards, packed.num_bytes) == (
        3,
        sum(p.stat().st_size for p in Path("out").glob("*.bin")),
    )


def interrupted(monkeypatch):
    """Pack images of one length, all with one time of modification, up to two of three shards."""
    for path, pixels in zip(sorted(Path("pets").rglob("*.*")), patches(12, 40, 52), strict=True):
        path.unlink()
        write_bmp(path.with_suffix(".bmp"), pixels)
    encode, paths = shard_writer._encoded, []

    def stop_at_the_ninth(path, *options):
        paths.append(path)
        if len(paths) == 9:
            monkeypatch.setattr(shard_writer, "_encoded", encode)
            raise KeyboardInterrupt
        return encode(path, *options)

    monkeypatch.setattr(shard_writer, "_encoded", stop_at_the_ninth)
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder("pets"), "out", num_workers=1)
    assert sorted(path.name for path in Path("out").glob("*.bin")) == ["chunk-0-0.bin", "chunk-1-0.bin"]
    return [Path(path) for path in paths[:8]]


def write_bmp(path, pixels):
    save_image(pixels, path)
    os.utime(path, (0, 0))


def packed_anew(reason):
    """Go on with one warning, and compare with a packing that was not interrupted."""
    with pytest.warns(UserWarning, match=f"4 of 12 images were packed a second time.*: {reason}") as told:
        pack(ImageFolder("pets"), "out", num_workers=1)
    assert len(told) == 1
    pack(ImageFolder("pets"), "whole", num_workers=1)
    assert contents(Path("out")) == contents(Path("whole"))


def test_images_that_were_replaced_meanwhile_are_packed_anew(pets, monkeypatch):
    path = interrupted(monkeypatch)[5]
    before = path.stat()
    write_bmp(path, 255 - np.array(Image.open(path)))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    packed_anew(f"files were changed since, such as {path}")


def test_it_is_told_also_if_the_packing_is_interrupted_again(pets, monkeypatch):
    first, *_, last = interrupted(monkeypatch)
    write_bmp(first, 255 - np.array(Image.open(first)))
    last.write_text("no image")
    with (
        pytest.warns(UserWarning, match=r"8 of 12 images were packed a second time"),
        pytest.raises(UsageError, match="cannot decode"),
    ):
        pack(ImageFolder("pets"), "out", num_workers=1)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_shards_that_were_damaged_meanwhile_are_packed_anew(pets, monkeypatch, damage):
    interrupted(monkeypatch)
    path = Path("out/chunk-1-0.bin")
    if damage == "flipped":
        flip(path, 500)
    elif damage == "cut":
        os.truncate(path, 500)
    else:
        path.unlink()
    packed_anew("its shards were changed since")


@pytest.mark.parametrize("damage", ["missing", "half"])
def test_shards_without_a_record_are_packed_anew(pets, monkeypatch, damage):
    interrupted(monkeypatch)
    record = Path("out/1.record.json")
    if damage == "missing":  # as in a folder of an early version
        record.rename("out/1.index.json")
    else:
        record.write_text(record.read_text()[:-9])
    Path("out/chunk-1-1.bin").write_bytes(b"of the same attempt")
    Path("out/chunk-7-0.bin").write_bytes(b"of another version")
    packed_anew("there is no record of the files that it was made of")


def test_shards_with_other_settings_are_packed_anew(pets, monkeypatch):
    interrupted(monkeypatch)
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 20_000)
    with pytest.warns(UserWarning, match="8 of 12 images were packed a second time.*with other settings"):
        pack(ImageFolder("pets"), "out", num_workers=1)
    pack(ImageFolder("pets"), "whole", num_workers=1)
    assert contents(Path("out")) == contents(Path("whole"))


@pytest.mark.parametrize("number", [0, 5])
def test_a_file_that_changes_while_it_is_packed_is_told(pets, monkeypatch, number):
    encode, paths = shard_writer._encoded, []

    def change_one(path, *options):
        image = encode(path, *options)
        paths.append(path)
        if len(paths) == 6:
            Path(paths[number]).touch()
        return image

    monkeypatch.setattr(shard_writer, "_encoded", change_one)
    kind, message = {
        0: (
            UsageError,
            "1 image files were changed or removed after they were packed, such as pets/.*run",
        ),
        5: (OSError, "it was changed while it was packed; run the command again: it continues .*'pets/"),
    }[number]
    with pytest.raises(kind, match=message):
        pack(ImageFolder("pets"), "out", num_workers=1)
    assert not Path("out/packed-index.json").exists()
    with warnings.catch_warnings(record=True) as told:
        pack(ImageFolder("pets"), "out", num_workers=1)
    assert len(told) == (number == 0)
    pack(ImageFolder("pets"), "whole", num_workers=1)
    assert contents(Path("out")) == contents(Path("whole"))


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "moved"])
def test_other_images_are_told_from_those_of_the_interrupted_packing(pets, monkeypatch, change):
    path = interrupted(monkeypatch)[0]
    if change == "added":
        shutil.copy(path, path.with_name("new.bmp"))
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("new.bmp"))
    else:
        path.rename(pets / ("cat" if path.parent.name == "dog" else "dog") / "new.bmp")
    with pytest.raises(UsageError, match=r"an unfinished packing of other images or .* \(images\)"):
        pack(ImageFolder("pets"), "out", num_workers=1)


def test_files_left_out_by_an_interrupted_packing_stop_one_that_leaves_none_out(pets, monkeypatch):
    for path in pets.rglob("*1.jpg"):
        path.write_text("no image")
    monkeypatch.setattr(packing, "_finish_part", None)  # interrupted after the last shard
    with pytest.raises(TypeError):
        pack(ImageFolder("pets"), "out", on_bad_image="skip", num_workers=1)
    with pytest.raises(UsageError, match=r"cannot decode pets/.*1\.jpg: not an image"):
        pack(ImageFolder("pets"), "out", num_workers=1)


def test_one_process_at_a_time_packs_into_a_folder(pets, monkeypatch):
    monkeypatch.setattr(packing_folder, "LOCK_TIMEOUT_S", 0)
    encode = shard_writer._encoded
    messages = []

    def another_process(*args):
        if not messages:
            with pytest.raises(UsageError) as caught:
                pack(ImageFolder("pets"), "out", num_workers=1)
            messages.append(str(caught.value))
        return encode(*args)

    monkeypatch.setattr(shard_writer, "_encoded", another_process)
    pack(ImageFolder("pets"), "out", num_workers=1)
    assert messages == ["another process is packing into out; wait until it ends, or stop it."]


def pack_slowly():
    encode = shard_writer._encoded

    def slow(*args):
        with Path("processes").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)
        return encode(*args)

    # in this process only, and those that it starts
    shard_writer._encoded = slow
    packing.IMAGES_PER_RANGE = 4
    pack(ImageFolder("pets"), "out", num_workers=2)


def test_a_packing_that_was_killed_leaves_no_old_images_and_no_processes(tmp_path):
    write_image_folder(tmp_path / "pets", images_per_class=8)
    process = fork(pack_slowly)
    while not list(Path("out").glob("*.record.json")) and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join()
    for path in Path("pets").rglob("*.jpg"):
        save_image(255 - np.array(Image.open(path)), path)
    with pytest.warns(UserWarning, match=r"of 24 images were packed a second time.*: files were changed"):
        pack(ImageFolder("pets"), "out", num_workers=1)
    processes = set(Path("processes").read_text().split())
    assert len(processes) == 2
    deadline = time.monotonic() + 30
    while any(map(runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, processes))
    pack(ImageFolder("pets"), "whole", num_workers=1)
    assert contents(Path("out")) == contents(Path("whole"))


def runs(process):
    try:  # the status of one that ended and was not waited for is Z
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def damaged(pets):
    """One file is not an image, one is truncated."""
    (pets / "cat" / "001.jpg").write_text("no image")
    content = (pets / "fox" / "002.jpg").read_bytes()
    (pets / "fox" / "002.jpg").write_bytes(content[: len(content) // 2])
    return pets


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_bad_image_stops_and_the_rest_can_be_packed_without_it(damaged, num_workers):
    data = ImageFolder(str(damaged))
    with pytest.raises(
        UsageError, match=r"cannot decode .*\.jpg: .*; replace the file, or add --on-bad-image"
    ) as e:
        pack(data, "out", num_workers=num_workers)
    assert str(e.value).endswith("skip, and run the command again: it continues where it stopped.")
    packed = pack(data, "out", on_bad_image="skip", num_workers=num_workers)
    assert packed.index.parts[""].skipped == {
        1: "not an image of a known format",
        10: "Truncated File Read",
    }
    assert "images            10\n" in packed.describe()
    assert "cat/001.jpg: not an image of a known format" in packed.describe()


def test_a_file_that_cannot_be_read_stops_in_any_case(pets):
    data = ImageFolder(str(pets))
    (pets / "cat" / "000.jpg").unlink()
    (pets / "cat" / "000.jpg").symlink_to("nothing")
    with pytest.raises(
        FileNotFoundError, match=r"No such file or directory; run the command again.*000\.jpg"
    ):
        pack(data, "out", on_bad_image="skip", num_workers=1)


def test_nothing_is_overwritten(pets):
    data = ImageFolder(str(pets))
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("precious")
    Path("file").write_text("precious")
    for out, message in {
        "full": "full is not empty, and nothing in it is overwritten; give a new one with --out",
        "file": "file is a file; give a new folder with --out",
        str(pets): "is not empty",
    }.items():
        with pytest.raises(UsageError, match=message):
            pack(data, out)
    pack(data, "packed", num_workers=1)
    before = contents(Path("packed"))
    with pytest.raises(UsageError, match="packed is not empty"):
        pack(data, "packed")
    with pytest.raises(UsageError, match="packed is packed already; give the folder of the image files"):
        pack(ImageFolder("packed"), "again")
    assert contents(Path("packed")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "png"}, "unknown encoding 'png'. .*Allowed: jpeg, raw"),
        ({"on_bad_image": "skpi"}, "unknown .*'skpi'. Did you mean 'skip'"),
        ({"shorter_side_px": 0}, "--shorter-side-px is 0; give a whole number of at least 1"),
        ({"num_workers": 0}, "--num-workers is 0; give a whole number of at least 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(pets, options, message):
    with pytest.raises(UsageError, match=message):
        pack(ImageFolder(str(pets)), "out", **options)
    assert not Path("out").exists()


def test_without_litdata_it_says_what_to_install(pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(UsageError, match=r"need LitData: pip install 'cbam_lightning\[litdata\]'"):
        pack(ImageFolder(str(pets)), "out")


def test_the_command_packs_and_says_how_to_train(pets, capsys):
    assert call(f"data pack --data ImageFolder --root {pets} --out 'my pets' --shorter-side-px 32") == 0
    text = capsys.readouterr().out
    assert (
        "images            12\nclasses           3\nencoding          raw, shorter side at most 32 px\n"
        in text
    )
    assert "Train from it: cbam-lightning fit --data ImageFolder --data.root 'my pets'" in text
    assert json.loads(Path("my pets/packed-index.json").read_text())["shorter_side_px"] == 32
    assert ImageFolder("my pets").num_classes == 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "data pack --data CIFAR10 --root . --out out",
            "unknown data set to pack 'CIFAR10'. Allowed: ImageFolder, ImageNet",
        ),
        ("data pack --data ImageFolder --root none --out out", "none is not a folder; give .* with --root"),
        ("data pack --data ImageNet --root . --out out", "give the folder of train and val with --root"),
        ("data", "an action is required: pack, check, scenes"),
    ],
)
def test_the_command_tells_mistakes_in_one_line(command, message, capsys):
    assert call(command) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert re.search(message, text)
    assert not Path("out").exists()


def test_parts_have_folders_of_their_own(tmp_path):
    write_image_folder(tmp_path / "pets" / "train", images_per_class=2)
    write_image_folder(tmp_path / "pets" / "val", images_per_class=1)
    index = pack(ImageFolder("pets"), "packed", num_workers=1).index
    assert list(index.parts) == ["train", "val"]
    assert index.name == "pets"
    assert {path.parent.name for path in Path("packed").rglob("chunk-*.bin")} == {"train", "val"}


def test_parts_of_other_names_that_lack_a_class_are_packed_and_read(tmp_path):
    write_image_folder(tmp_path / "pets" / "Training", ["bar", "cafe\u0301", "cat"], 4)  # NFD
    write_image_folder(tmp_path / "pets" / "Valid", ["cat"], 2)
    packed = pack(ImageFolder("pets"), "raw", shorter_side_px=30, num_workers=1).index
    assert (set(packed.parts), packed.classes) == ({"train", "val"}, ("bar", "caf\u00e9", "cat"))
    data = ImageFolder("raw", size_px=26)
    data.setup("validate")
    assert data.val_set.labels.tolist() == [2, 2]


def test_folders_of_other_names_hold_out_the_same_images_when_packed(tmp_path):
    write_image_folder(tmp_path / "pets" / "Training", ["cafe\u0301", "cat"], 8)
    pack(ImageFolder("pets"), "raw", shorter_side_px=30, num_workers=1)
    write_image_folder(tmp_path / "same" / "train", ["caf\u00e9", "cat"], 8)
    names = []
    for root in ("pets", "same", "raw"):
        val_set = ImageFolder(root, size_px=26, val_fraction=0.4).build_split("val")
        names.append([Path(val_set.name(index)).name for index in range(len(val_set))])
    assert names[0] == names[1] == names[2]


def test_a_part_without_images_is_not_packed(tmp_path):
    write_image_folder(tmp_path / "pets" / "train", ["cat", "dog"], 2)
    (tmp_path / "pets" / "val" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"the class folders of .*val are empty; add images"):
        pack(ImageFolder("pets"), "raw", num_workers=1)
