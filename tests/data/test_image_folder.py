from itertools import chain
from pathlib import Path

import pytest
import torch

from cbam_lightning.data import ImageFolder
from cbam_lightning.errors import UsageError
from tests.data.generate import write_image_folder

CLASSES = ("cat", "dog", "fox")


def files_of(data):
    data.setup()
    return {
        s: [data.sample_name(s, i) for i in range(len(data.split_set(s)))] for s in ("train", "val", "test")
    }


def images_below(folder):
    return sorted(str(p) for p in folder.rglob("*.jpg"))


@pytest.mark.parametrize("below", ["", "train"])
def test_without_other_folders_three_parts_are_split(tmp_path, below):
    write_image_folder(tmp_path / below, CLASSES, images_per_class=10)
    data = ImageFolder(str(tmp_path), size_px=32, val_fraction=0.2)
    files = files_of(data)
    assert [len(f) for f in files.values()] == [21, 6, 3]
    assert sorted(chain.from_iterable(files.values())) == images_below(tmp_path)
    for split in ("train", "val", "test"):
        counts = torch.bincount(data.split_set(split).labels)
        assert counts.tolist() == [len(files[split]) // 3] * 3
        assert [CLASSES[label] for label in data.split_set(split).labels] == [
            Path(f).parent.name for f in files[split]
        ]


def test_the_seed_of_the_split_alone_changes_it(tmp_path):
    write_image_folder(tmp_path)
    torch.manual_seed(0)
    first = files_of(ImageFolder(str(tmp_path)))
    torch.manual_seed(1)
    assert files_of(ImageFolder(str(tmp_path))) == first
    assert files_of(ImageFolder(str(tmp_path), split_seed=1)) != first


def test_a_new_image_leaves_the_others_where_they_are(tmp_path):
    write_image_folder(tmp_path, CLASSES, images_per_class=20)
    before = files_of(ImageFolder(str(tmp_path)))
    for name in ("a.jpg", "010 b.jpg", "z.jpg", "zz.jpg"):
        (tmp_path / "cat" / name).write_bytes((tmp_path / "cat" / "000.jpg").read_bytes())
    after = files_of(ImageFolder(str(tmp_path)))
    assert [len(after[split]) - len(before[split]) for split in after] == [4, 0, 0]
    assert set(before["train"]) <= set(after["train"])
    moved = set(before["val"] + before["test"]) - set(after["val"] + after["test"])
    assert len(moved) <= 4
    others = [[f for f in files["val"] if "cat" not in Path(f).parts[-2]] for files in (before, after)]
    assert others[0] == others[1]


def test_folders_of_all_parts_are_used_as_they_are(tmp_path):
    for part, count in {"train": 4, "val": 2, "test": 3}.items():
        write_image_folder(tmp_path / part, CLASSES, count)
    for val_fraction in (0.1, 0.0):
        files = files_of(ImageFolder(str(tmp_path), val_fraction=val_fraction))
        assert files == {part: images_below(tmp_path / part) for part in ("train", "val", "test")}


def test_without_test_the_validation_folder_is_both(tmp_path):
    for part, count in {"train": 4, "val": 2}.items():
        write_image_folder(tmp_path / part, CLASSES, count)
    files = files_of(ImageFolder(str(tmp_path)))
    assert files["val"] == files["test"] == images_below(tmp_path / "val")
    assert files["train"] == images_below(tmp_path / "train")


def test_without_val_a_part_of_train_is_held_out(tmp_path):
    for part, count in {"train": 10, "test": 2}.items():
        write_image_folder(tmp_path / part, CLASSES, count)
    files = files_of(ImageFolder(str(tmp_path), val_fraction=0.2))
    assert files["test"] == images_below(tmp_path / "test")
    assert [len(files["train"]), len(files["val"])] == [24, 6]
    assert sorted(files["train"] + files["val"]) == images_below(tmp_path / "train")
    files = files_of(ImageFolder(str(tmp_path), val_fraction=0.0))
    assert files["train"] == images_below(tmp_path / "train")
    assert files["val"] == files["test"]


@pytest.mark.parametrize("below", ["", "train"])
def test_some_images_of_each_class_are_chosen_by_the_seed_of_the_split(tmp_path, below):
    write_image_folder(tmp_path / below, CLASSES, images_per_class=12)
    every = files_of(ImageFolder(str(tmp_path)))
    few, more = (files_of(ImageFolder(str(tmp_path), images_per_class=count)) for count in (2, 5))
    for files, count in ((few, 2), (more, 5)):
        assert (files["val"], files["test"]) == (every["val"], every["test"])
        assert [Path(f).parent.name for f in files["train"]] == [c for c in CLASSES for _ in range(count)]
    assert set(few["train"]) < set(more["train"]) < set(every["train"])
    assert few["train"] == sorted(few["train"])
    torch.manual_seed(1)
    assert files_of(ImageFolder(str(tmp_path), images_per_class=2)) == few


def test_another_seed_chooses_other_images_to_train_on_and_leaves_the_test_folder(tmp_path):
    for part, count in {"train": 20, "test": 3}.items():
        write_image_folder(tmp_path / part, CLASSES, count)
    files = [
        files_of(ImageFolder(str(tmp_path), val_fraction=0, images_per_class=4, split_seed=seed))
        for seed in (0, 1)
    ]
    assert len({tuple(f["train"]) for f in files}) == 2
    assert [f["test"] for f in files] == [images_below(tmp_path / "test")] * 2


def test_a_class_with_too_few_images_is_named(tmp_path):
    write_image_folder(tmp_path / "train", CLASSES[:2], 5)
    write_image_folder(tmp_path / "train", CLASSES[2:], 4)
    write_image_folder(tmp_path / "test", CLASSES, 2)
    message = r"images_per_class is 4; allowed: at most 3, since fox has no more images to train on\. Change"
    with pytest.raises(UsageError, match=message):
        ImageFolder(str(tmp_path), images_per_class=4).setup("fit")
    assert len(ImageFolder(str(tmp_path), images_per_class=4, val_fraction=0).train_set) == 12


def test_each_class_keeps_an_image_to_train_on(tmp_path):
    write_image_folder(tmp_path, ["cat"], 1)
    write_image_folder(tmp_path, ["dog"], 3)
    data = ImageFolder(str(tmp_path), val_fraction=0.4, test_fraction=0.4)
    data.setup()
    assert [data.split_set(s).labels.tolist() for s in ("train", "val", "test")] == [[0, 1], [1], [1]]


def test_surface_is_known_before_setup(tmp_path):
    write_image_folder(tmp_path / "pets" / "train")
    (tmp_path / "pets" / "train" / ".cache").mkdir()
    (tmp_path / "pets" / "train" / "Thumbs.db").touch()
    data = ImageFolder(str(tmp_path / "pets"), size_px=224)
    assert (data.num_classes, data.class_names) == (3, CLASSES)
    assert (data.dataset_name, data.size_px, data.eval_resize_px) == ("image_folder:pets", 224, 256)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    grey = ImageFolder(str(tmp_path / "pets"), in_channels=1, size_px=32)
    assert grey.mean == (pytest.approx(0.449),)
    assert grey.std == (pytest.approx(0.226),)
    assert grey.test_set[0].images.shape == (1, 1, 32, 32)
    own = ImageFolder(str(tmp_path / "pets"), mean=[0.1, 0.2, 0.3], std=(1, 1, 1))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_fraction": 0.0},
            r"test_fraction is 0.0; allowed: more than 0, and less than 1 - val_fraction = 0.9",
        ),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "test_fraction is 0.5; allowed"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\); allowed: one value for each of the 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "std is .*allowed: values more than 0"),
        ({"size_px": 0}, "size_px is 0; allowed: 1 or more"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale is .*two ascending fractions"),
        ({"in_channels": 2}, "in_channels is 2; allowed: 1 or 3"),
        ({"images_per_class": 0}, "images_per_class is 0; allowed: 1 or more, or null"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    write_image_folder(tmp_path, images_per_class=1)
    with pytest.raises(UsageError, match=message):
        ImageFolder(str(tmp_path), **options)


def test_missing_and_wrong_folders_are_named(tmp_path):
    with pytest.raises(
        UsageError, match=r"none is not a folder; give the folder of the images with --data\.root"
    ):
        ImageFolder(str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"has 0 class folders \(none\); needed are two or more"):
        ImageFolder(str(tmp_path))
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(UsageError, match=r"has 2 class folders \(train, val\); needed"):
        ImageFolder(str(tmp_path))


def test_an_empty_class_folder_is_named(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "wolf").mkdir()
    (tmp_path / "wolf" / ".DS_Store").touch()
    with pytest.raises(UsageError, match=r"class folder .*wolf is empty; add images or delete the folder"):
        ImageFolder(str(tmp_path)).setup("fit")


def test_classes_of_the_parts_must_agree(tmp_path):
    write_image_folder(tmp_path / "train", CLASSES, 2)
    write_image_folder(tmp_path / "val", ("cat", "dog", "owl"), 2)
    with pytest.raises(UsageError, match=r"val has class folders that .*train has not: owl\."):
        ImageFolder(str(tmp_path))


def test_too_few_images_to_share_is_refused(tmp_path):
    write_image_folder(tmp_path, images_per_class=1)
    with pytest.raises(UsageError, match=r"no image of .* is left for val: no class has enough images"):
        ImageFolder(str(tmp_path)).setup("fit")
