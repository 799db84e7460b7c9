import shlex

import pytest

from cbam_lightning.data import ImageNet
from cbam_lightning.data.imagenet import ARCHIVES
from cbam_lightning.errors import UsageError
from tests.data.generate import WNIDS, write_image_folder, write_imagenet


def names(data, split):
    return [data.sample_name(split, i) for i in range(len(data.split_set(split)))]


def images_below(folder):
    return sorted(str(p) for p in folder.rglob("*.JPEG"))


def test_the_official_validation_images_are_the_test_split(tmp_path):
    write_imagenet(tmp_path, images_per_class=6)
    data = ImageNet(str(tmp_path), size_px=32)
    assert (data.num_classes, data.class_names, data.in_channels) == (3, WNIDS, 3)
    assert (data.dataset_name, data.size_px, data.eval_resize_px) == ("imagenet", 32, 37)
    data.setup()
    assert names(data, "test") == images_below(tmp_path / "val")
    assert len(names(data, "val")) == 3  # one of each class, as 6 * 0.01 rounds to none
    assert sorted(names(data, "train") + names(data, "val")) == images_below(tmp_path / "train")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (15, 3, 32, 32)
    assert batch.bad == ()


def test_a_val_fraction_of_0_validates_with_the_official_images(tmp_path):
    write_imagenet(tmp_path)
    data = ImageNet(str(tmp_path), size_px=32, val_fraction=0.0)
    data.setup()
    assert names(data, "val") == names(data, "test") == images_below(tmp_path / "val")
    assert names(data, "train") == images_below(tmp_path / "train")


def test_testing_needs_no_training_images(tmp_path):
    write_image_folder(tmp_path / "val", WNIDS, 2, ".JPEG")
    data = ImageNet(str(tmp_path), size_px=32)
    data.setup("test")
    assert data.class_names == WNIDS
    with pytest.raises(UsageError, match="train holds no class folders"):
        data.setup("fit")


def test_other_classes_in_val_are_refused(tmp_path):
    write_image_folder(tmp_path / "train", WNIDS, 2, ".JPEG")
    write_image_folder(tmp_path / "val", (*WNIDS, "n02"), 2, ".JPEG")
    with pytest.raises(UsageError, match=r"val has class folders that .*train has not: n02\."):
        ImageNet(str(tmp_path))


@pytest.mark.parametrize("present", [ARCHIVES, ARCHIVES[:2], ARCHIVES[2:]])
def test_packed_archives_come_with_the_command_that_unpacks_them(tmp_path, present):
    root = tmp_path / "image net's"
    root.mkdir()
    for archive in present:
        (root / archive).touch()
    with pytest.raises(
        UsageError, match="holds the official archives, but no folder val made from them"
    ) as caught:
        ImageNet(str(root))
    message = str(caught.value)
    assert "\n" not in message
    missing = [archive for archive in ARCHIVES if archive not in present]
    assert (f"put the official {', '.join(missing)} into {root}, then" in message) == bool(missing)
    command = shlex.split(message[message.index("python -c") :])
    assert command[:2] == ["python", "-c"]
    calls = []
    code = command[2].replace("from torchvision.datasets import ImageNet; ", "")
    exec(code, {"ImageNet": lambda root, split: calls.append((root, split))})
    assert calls == [(str(root), "train"), (str(root), "val")]


def test_unsorted_validation_images_are_explained(tmp_path):
    write_image_folder(tmp_path / "train", WNIDS, 3, ".JPEG")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(
        UsageError, match="val holds files that are not sorted into one folder per class; delete it and"
    ):
        ImageNet(str(tmp_path)).setup("test")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none is not a folder; give .* --data\.root"):
        ImageNet(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="val holds no class folders; give the folder of train and val"):
        ImageNet(str(tmp_path))
