import unicodedata

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cbam_lightning.data import FashionMNIST, FashionScenes, ImageFolder, TorchDataset
from cbam_lightning.data.image_digests import digest_of_arrays, digest_of_names
from tests.data.generate import write_image_folder


def digest(*names):
    return digest_of_names(np.array([name.encode() for name in names], dtype=np.bytes_))


def test_names_count_in_their_order_below_their_common_folder():
    assert digest("a/train/x/1.jpg", "a/train/y/2.jpg") == digest("x/1.jpg", "y/2.jpg")
    assert digest("/a/b/1.jpg", "/a/b/2.jpg") == digest("c/1.jpg", "c/2.jpg")
    different = [
        digest("1.jpg", "2.jpg"),
        digest("2.jpg", "1.jpg"),
        digest("1.jpg", "2.jpg", "3.jpg"),
        digest("x/1.jpg", "y/2.jpg"),
        digest("1.jpg"),
        digest(),
    ]
    assert len(set(different)) == len(different)


def test_the_unicode_form_of_a_name_does_not_count():
    forms = [
        [unicodedata.normalize(form, name) for name in ("ä/é.jpg", "b/ö.jpg")] for form in ("NFC", "NFD")
    ]
    assert forms[0] != forms[1]
    assert digest(*forms[0]) == digest(*forms[1]) != digest("a/e.jpg", "b/o.jpg")


def test_names_that_are_not_utf_8_count():
    latin = [np.array([name, b"b"], dtype=np.bytes_) for name in (b"\xe4", b"\xe5")]
    assert digest_of_names(latin[0]) != digest_of_names(latin[1])


def test_arrays_count_with_all_their_labels_and_some_images():
    images, labels = torch.zeros(200, 1, 2, 2, dtype=torch.uint8), torch.zeros(200).long()
    other_images, other_labels = images.clone(), labels.clone()
    other_images[0], other_labels[123] = 1, 1
    digests = [
        digest_of_arrays("a", labels, images=images),
        digest_of_arrays("b", labels, images=images),
        digest_of_arrays("a", other_labels, images=images),
        digest_of_arrays("a", labels, images=other_images),
    ]
    assert len(set(digests)) == 4
    assert digest_of_arrays("a", labels.clone(), images=images.clone()) == digests[0]


def make(kind, tmp_path, **options):
    if kind == "fashion":
        return FashionMNIST(**options)
    if kind == "scenes":
        return FashionScenes(48, num_images=8, num_test_images=2, val_fraction=0.3, **options)
    if kind == "folder":
        if not (tmp_path / "cat").is_dir():
            write_image_folder(tmp_path)
        return ImageFolder(str(tmp_path), **options)
    items = TensorDataset(torch.zeros(20, 3, 8, 8), torch.arange(20) % 2)
    return TorchDataset(items, num_classes=2, **options)


@pytest.mark.parametrize("kind", ["fashion", "scenes", "folder", "torch"])
def test_every_data_module_describes_its_splits(tmp_path, kind):
    first, again = (make(kind, tmp_path).describe_splits() for _ in range(2))
    assert first == again
    assert list(first) == ["train", "val"]
    data = make(kind, tmp_path)
    assert {name: each["images"] for name, each in first.items()} == {
        "train": len(data.train_set),
        "val": len(data.val_set),
    }
    other = make(kind, tmp_path, split_seed=1).describe_splits()
    assert all(other[name]["images"] == first[name]["images"] for name in first)
    assert all(other[name]["digest"] != first[name]["digest"] for name in first)


def test_a_user_defined_transform_does_not_count(tmp_path):
    class Darken:
        def __call__(self, image):
            return image // 2

    plain, changed = (make("fashion", tmp_path, train_transform=t) for t in (None, Darken()))
    assert plain.describe_splits() == changed.describe_splits()


def test_scenes_of_another_seed_are_others(tmp_path):
    first, other = (make("scenes", tmp_path, scene_seed=seed).describe_splits() for seed in (0, 1))
    assert first["train"]["digest"] != other["train"]["digest"]
