"""Every layout of folders in the docstring of ``ImageFolder``, in each of its usual names."""

import itertools
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cbam_lightning.data import ImageFolder, ImageNet, image_folder, imagenet
from cbam_lightning.data.image_files import read_image
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image, write_image_folder

CLASSES = ("cat", "dog", "fox")
COUNTS = {"train": 10, "val": 2, "test": 3}
NAMES = {
    "train": ("train", "Training", "TRAIN"),
    "val": ("val", "valid", "Validation", "Valid"),
    "test": ("test", "Testing", "Test_Set"),
}
SHARES = {"val_fraction": 0.2, "test_fraction": 0.1}


def rows():
    """Return the table: folders, and what trains, validates and tests."""
    lines = ImageFolder.__doc__.splitlines()
    rules = [number for number, line in enumerate(lines) if line.strip().startswith("====")]
    table = lines[rules[1] + 1 : rules[2]]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table]


def layouts():
    for folders, *splits in rows():
        parts = [] if folders == "class folders" else folders.split()
        for names in itertools.product(*(NAMES[part] for part in parts)):
            yield dict(zip(parts, names, strict=True)), splits


def expected_count(split, means, has_train):
    """Return the images of each class, from a cell of the table."""
    fractions = {name: round(COUNTS["train"] * share) for name, share in SHARES.items()}
    if means in fractions:
        return fractions[means]
    if means in COUNTS:
        return COUNTS[means]
    assert means == ("the rest of train" if has_train else "the rest")
    return COUNTS["train"] - fractions["val_fraction"]


@pytest.mark.parametrize(("names", "splits"), layouts(), ids=str)
def test_every_layout_of_the_table_is_read_as_it_says(tmp_path, names, splits):
    for part, name in (names or {"train": ""}).items():
        write_image_folder(tmp_path / name, CLASSES, COUNTS[part])
    data = ImageFolder(str(tmp_path), **SHARES)
    data.setup()
    assert data.class_names == CLASSES
    used = dict(zip(("train", "val", "test"), splits, strict=True))
    for split, means in used.items():
        count = expected_count(split, means, bool(names))
        if split == "train" and means.startswith("the rest"):
            count -= 1 if used["test"] == "test_fraction" else 0
        assert len(data.split_set(split)) == len(CLASSES) * count, split
        folder = names.get(means.rpartition(" ")[2], names.get("train", "")) if names else ""
        paths = [data.sample_name(split, index) for index in range(len(data.split_set(split)))]
        assert all(path.startswith(str(tmp_path / folder)) for path in paths)


@pytest.fixture
def told(monkeypatch):
    """What is told while a data module is made."""
    lines = []
    monkeypatch.setattr(image_folder, "rank_zero_info", lines.append)
    return lines


def test_the_table_is_complete():
    assert [row[0] for row in rows()] == [
        "class folders",
        "train",
        "train val",
        "train test",
        "train val test",
    ]


def test_usual_folders_are_not_worth_a_word(tmp_path, told):
    for part in COUNTS:
        write_image_folder(tmp_path / part, CLASSES, 1)
    ImageFolder(str(tmp_path))
    assert told == []


def test_other_names_and_what_is_not_used_are_told(tmp_path, told):
    for name in ("Training", "Testing", "extra"):
        write_image_folder(tmp_path / name, CLASSES, 10)
    ImageFolder(str(tmp_path))
    assert told == [f"{tmp_path}: train = Training; test = Testing; not used: extra."]


def test_a_class_may_be_missing_in_the_folders_that_are_held_out(tmp_path, told):
    write_image_folder(tmp_path / "train", CLASSES, 4)
    write_image_folder(tmp_path / "val", ("cat", "fox"), 2)
    write_image_folder(tmp_path / "test", ("fox",), 3)
    (tmp_path / "test" / "dog").mkdir()  # empty
    data = ImageFolder(str(tmp_path), batch_size=2, num_workers=0)
    data.setup()
    assert data.val_set.labels.tolist() == [0, 0, 2, 2]
    assert data.test_set.labels.tolist() == [2, 2, 2]
    assert told == [f"{tmp_path}: val lacks 1 of 3 classes (dog); test lacks 1 of 3 classes (cat)."]


def test_test_images_without_classes_say_how_to_predict_them(tmp_path, told):
    write_image_folder(tmp_path / "train", CLASSES, 10)
    write_image_folder(tmp_path, ("test",), 3)
    data = ImageFolder(str(tmp_path))
    data.setup()
    assert len(data.test_set) == 3  # one of each class, from train
    assert f"give --data.predict_path {tmp_path / 'test'} to `cbam-lightning predict`" in told[0]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "val", "valid"), "two folders of val images, val and valid"),
        (("train", "Test", "testing"), "two folders of test images, Test and testing"),
        (("cat", "dog", "test"), "has test beside cat, dog: put the training images into .*train"),
        (("train", "test", "cat", "dog"), "has test beside cat, dog: put the training images"),
        (("train/cat", "train/dog", "cat"), r"has cat beside train, which has class folders \(cat, dog\)"),
        (("train/steam", "train/diesel", "bus"), "has bus beside train, which has class folders"),
        (("train/cat", "train/dog", "test/cat", "dog"), "has dog beside train, which has class"),
        (("training_set/a", "train/a"), "two folders of train images, train and training_set"),
        (("seg_train/a", "seg_test/a", "seg_pred"), "folders seg_test, seg_train of .* look like parts"),
        (("train1", "test1"), "folders test1, train1 of .* look like parts, not like classes; rename"),
        (
            ("seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog"),
            "seg_test, seg_train of .* all have",
        ),
        (("images/train", "labels/train"), "images, labels of .* all have the folders train"),
        (
            ("fold1/a", "fold1/b", "fold2/a", "fold2/b", "fold2/c"),
            r"fold1, fold2 of .* have the folders a, b\. If",
        ),
        (("train/cat", "train/dog", "test/test1"), "images without classes, give --data.predict_path"),
        (("val", "test"), r"has 2 class folders \(test, val\); needed are two or more"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, folders, message):
    for name in folders:
        write_image_folder(tmp_path, (name,), 1)
    with pytest.raises(UsageError, match=message):
        ImageFolder(str(tmp_path))


def test_classes_of_the_same_folders_are_read_below_train(tmp_path):
    for name in ("train/cat/left", "train/cat/right", "train/dog/left", "train/dog/right"):
        write_image_folder(tmp_path, (name,), 3)
    assert ImageFolder(str(tmp_path)).class_names == ("cat", "dog")


def test_folders_that_not_all_classes_have_are_no_classes(tmp_path):
    for name in ("cat/left", "cat/right", "dog/left", "dog/right", "fox"):
        write_image_folder(tmp_path, (name,), 3)
    assert ImageFolder(str(tmp_path)).class_names == ("cat", "dog", "fox")


@pytest.mark.parametrize("classes", [("bus", "car", "train"), ("bus", "test_tube", "train_station")])
def test_the_vehicle_train_is_a_class(tmp_path, classes):
    write_image_folder(tmp_path, classes, 3)
    assert ImageFolder(str(tmp_path)).class_names == classes


def test_empty_parts_and_images_outside_of_class_folders_are_told(tmp_path, told):
    write_image_folder(tmp_path / "train", CLASSES, 10)
    save_image(patches(1, 9, 9)[0], tmp_path / "train" / "a.jpg")
    (tmp_path / "train" / "labels.csv").touch()
    (tmp_path / "val").mkdir()
    ImageFolder(str(tmp_path))
    assert told == [
        f"{tmp_path}: val is empty and is not used; "
        f"not used: 1 images in {tmp_path / 'train'} that are in no class folder."
    ]


def test_imagenet_may_lack_a_class_and_have_any_folder_beside(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(imagenet, "rank_zero_info", lines.append)
    write_image_folder(tmp_path / "train", CLASSES, 4)
    write_image_folder(tmp_path / "val", ("cat", "fox"), 2)
    (tmp_path / "devkit").mkdir()
    data = ImageNet(str(tmp_path), val_fraction=0.25, size_px=32)
    data.setup("test")
    assert data.test_set.labels.tolist() == [0, 0, 2, 2]
    assert lines == [f"{tmp_path / 'val'} lacks 1 of 3 classes (dog)."]
    (tmp_path / "train").rename(tmp_path / "other")
    assert ImageNet(str(tmp_path)).class_names == ("cat", "fox")


def test_names_of_classes_are_text(tmp_path):
    write_image_folder(tmp_path, ("dog", os.fsdecode(b"caf\xe9")), 1)
    with pytest.raises(UsageError, match=r"has a folder 'caf\\udce9', whose name is not text in UTF-8"):
        ImageFolder(str(tmp_path))


def test_imagenet_is_found_in_any_case(tmp_path):
    for part, count in (("Train", 4), ("VAL", 2)):
        write_image_folder(tmp_path / part, ("n01440764", "n01443537"), count)
    data = ImageNet(str(tmp_path), val_fraction=0.25, size_px=32)
    data.setup()
    assert [len(data.split_set(split)) for split in ("train", "val", "test")] == [6, 2, 4]


def test_names_of_classes_are_the_same_in_all_forms_of_unicode(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    write_image_folder(tmp_path / "train", (composed, "bar"), 2)
    write_image_folder(tmp_path / "test", (decomposed, "bar"), 1)
    data = ImageFolder(str(tmp_path))
    assert data.class_names == ("bar", composed)
    assert data.test_set.labels.tolist() == [0, 1]
    (tmp_path / "train" / decomposed).mkdir()
    with pytest.raises(UsageError, match="written in two forms of Unicode"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_file_that_is_no_image_is_found_before_the_training(tmp_path, part):
    for name in COUNTS:
        write_image_folder(tmp_path / name, CLASSES, 2)
    (tmp_path / part / "dog" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"cannot decode .*notes\.txt: its name is not that of an image"):
        ImageFolder(str(tmp_path)).setup("fit")
    ImageFolder(str(tmp_path), on_bad_image="skip").setup("fit")


def test_damage_in_the_test_images_is_found_before_the_training(tmp_path):
    for name in COUNTS:
        write_image_folder(tmp_path / name, CLASSES, 2)
    (tmp_path / "test" / "dog" / "000.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot decode .*000\.jpg: not an image of a known format"):
        ImageFolder(str(tmp_path)).setup("fit")
    ImageFolder(str(tmp_path), on_bad_image="skip").setup("fit")


@pytest.mark.parametrize("highest", [65535, 4095])
def test_grey_images_of_16_bits_keep_their_high_byte(tmp_path, highest):
    pixels = np.arange(12, dtype=np.uint32).reshape(3, 4) * highest // 11
    header = f"P5 4 3 {highest}\n".encode()
    (tmp_path / "a.pgm").write_bytes(header + pixels.astype(">u2").tobytes())
    expected = (pixels * (65535 / highest) / 256).astype(int)
    assert abs(read_image(str(tmp_path / "a.pgm"), 1)[0].numpy() - expected).max() <= (highest < 65535)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".ppm", ".PGM", ".pnm", ".pbm"])
def test_images_of_rarer_suffixes_are_read(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 2, (9, 12), dtype=np.uint8) * 255
    kind = "JPEG" if suffix.lower().startswith(".j") else "PPM"
    Image.fromarray(pixels).convert("1" if suffix == ".pbm" else "L").save(
        tmp_path / f"a{suffix}", kind, quality=95
    )
    image = read_image(str(tmp_path / f"a{suffix}"), 1)
    assert image.shape == (1, 9, 12)
    if kind == "PPM":
        assert image[0].tolist() == pixels.tolist()
