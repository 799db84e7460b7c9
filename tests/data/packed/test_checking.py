import json
import os
import shutil
from pathlib import Path

import pytest

from cbam_lightning.data import ImageFolder
from cbam_lightning.data.packed import packing
from cbam_lightning.data.packed.packing import pack
from cbam_lightning.data.packed.stores import cache_root
from tests.command import call
from tests.data.generate import write_image_folder
from tests.data.packed.damage import flip


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Two parts, of 6 images in 2 shards and of 3 images in 1 shard."""
    monkeypatch.setattr(packing, "IMAGES_PER_RANGE", 3)
    write_image_folder(tmp_path / "pets" / "train", images_per_class=2)
    write_image_folder(tmp_path / "pets" / "val", images_per_class=1)
    pack(ImageFolder("pets"), "packed", num_workers=1)
    return Path("packed")


def checked(capsys, root="packed"):
    """Check a packed set, and return the exit code, the lines, and the last line of errors."""
    code = call(f"data check --root {root}")
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.replace("\r", "\n").strip().splitlines()[-1:]


def test_a_whole_set_gives_one_line(packed, capsys):
    size = sum(path.stat().st_size for path in packed.rglob("*.bin"))
    code, lines, _ = checked(capsys)
    assert (code, lines) == (0, [f"packed is whole: 9 images in 3 shards, {size} bytes"])


@pytest.mark.parametrize("position", [1, 400, -1])
def test_a_flipped_byte_is_found(packed, capsys, position):
    flip(packed / "train/chunk-1-0.bin", position)
    line = (
        "packed/train/chunk-1-0.bin is damaged: its content has another SHA-256 than its index says; "
        "copy it again, or pack again"
    )
    error = ["cbam-lightning: error: packed has 1 fault, listed above."]
    assert checked(capsys) == (1, [line], error)


def test_every_fault_has_a_line(packed, capsys):
    size = (packed / "train/chunk-0-0.bin").stat().st_size
    os.truncate(packed / "train/chunk-0-0.bin", 100)
    (packed / "val/chunk-0-0.bin").unlink()
    shutil.copy(packed / "train/chunk-1-0.bin", packed / "val/chunk-4-0.bin")
    (packed / "notes.txt").write_text("mine")
    (packed / ".hidden").write_text("of a file manager")
    assert checked(capsys) == (
        1,
        [
            "packed/notes.txt does not belong to the packed set; delete it, or pack again",
            "packed/val/chunk-4-0.bin does not belong to the packed set; delete it, or pack again",
            f"packed/train/chunk-0-0.bin is damaged: it has 100 bytes; its index says {size}; "
            "copy it again, or pack again",
            "packed/val/chunk-0-0.bin is missing; copy it again, or pack again",
        ],
        ["cbam-lightning: error: packed has 4 faults, listed above."],
    )


def test_a_damaged_index_of_a_part_leaves_the_others_to_be_checked(packed, capsys):
    flip(packed / "train/index.json", 30)
    flip(packed / "val/chunk-0-0.bin", 30)
    code, lines, _ = checked(capsys)
    assert (code, [line.partition(" ")[0] for line in lines]) == (
        1,
        ["packed/train/index.json", "packed/val/chunk-0-0.bin"],
    )
    assert lines[0].endswith(
        "it is not the one that packed-index.json was written with; copy it again, or pack again."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("packed-index.json", "packed/packed-index.json cannot be used: its content has another SHA-256"),
        ("unfinished.json", "packed holds an unfinished packing; repeat `cbam-lightning data pack`"),
        ("none", "none has no packed-index.json; give the output of `data pack` with --root."),
    ],
)
def test_what_is_no_packed_set_is_refused(packed, capsys, name, message):
    if name == "unfinished.json":
        (packed / name).write_bytes(b"{}")
    elif name != "none":
        flip(packed / name, 90)
    code, lines, error = checked(capsys, "none" if name == "none" else "packed")
    assert (code, lines) == (2, [])
    assert message in error[0]


def test_a_bucket_is_checked_by_its_copies(packed, bucket, capsys):
    bucket.add_folder(packed, "bucket/pets")
    code, lines, _ = checked(capsys, "s3://bucket/pets")
    assert code == 0
    assert lines[0].startswith("s3://bucket/pets is whole: 9 images in 3 shards, ")
    (copy,) = cache_root().rglob("val/chunk-0-0.bin")
    flip(copy, 200)
    code, lines, _ = checked(capsys, "s3://bucket/pets")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(
        "s3://bucket/pets/val/chunk-0-0.bin is damaged: its content has another SHA-256"
    )
    assert lines[0].endswith(f"; delete its copy {copy} to fetch it again, or pack again")
    copy.unlink()
    assert checked(capsys, "s3://bucket/pets")[0] == 0


def test_a_set_of_which_one_file_was_packed_as_nothing_is_whole(tmp_path, capsys):
    write_image_folder(tmp_path / "pets", images_per_class=2)
    Path("pets/cat/000.jpg").write_text("no image")
    pack(ImageFolder("pets"), "packed", on_bad_image="skip", num_workers=1)
    assert json.loads(Path("packed/packed-index.json").read_text())["parts"][""]["skipped"]
    code, lines, _ = checked(capsys)
    assert (code, lines[0][:36]) == (0, "packed is whole: 5 images in 1 shard")
