import hashlib

import numpy as np
import pytest
import torch
from torchvision import datasets

from cbam_lightning.data import FashionMNIST, fashion_mnist
from cbam_lightning.errors import UsageError
from tests.data.generate import write_fashion_mnist

NAMES = [f"{stem}.gz" for stem in fashion_mnist.FILE_STEMS]


@pytest.fixture(scope="module")
def embedded():
    data = FashionMNIST()
    data.setup()
    return data


@pytest.fixture
def _no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "no-debian")


@pytest.fixture
def offered(file_server, monkeypatch, tmp_path):
    """A server that offers a small Fashion-MNIST, which torchvision takes for the official one."""
    folder = write_fashion_mnist(tmp_path / "offered", images_per_class=2)
    file_server.files = {name: (folder / name).read_bytes() for name in NAMES}
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in file_server.files.items()]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [file_server.url])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)
    return file_server


def test_known_before_setup():
    data = FashionMNIST(source="full", root="/nonexistent")
    assert (data.num_classes, data.in_channels, data.size_px) == (10, 1, 28)
    assert data.class_names == tuple(datasets.FashionMNIST.classes)
    assert data.dataset_name == "fashion_mnist"


def test_embedded_parts_are_balanced(embedded):
    assert torch.bincount(embedded.train_set.labels).tolist() == [900] * 10
    assert torch.bincount(embedded.val_set.labels).tolist() == [100] * 10
    assert torch.bincount(embedded.test_set.labels).tolist() == [200] * 10


def test_validation_images_come_from_the_training_part_only(embedded):
    train = set(embedded.train_set.positions.tolist())
    val = set(embedded.val_set.positions.tolist())
    assert not train & val
    assert train | val == set(range(10_000))
    assert embedded.val_set.images is embedded.train_set.images
    assert not torch.equal(embedded.val_set.images[:2000], embedded.test_set.images)
    assert embedded.sample_name("val", 0) == f"fashion_mnist/train/{min(val):05d}"
    assert embedded.sample_name("test", 12) == "fashion_mnist/test/00012"


def test_only_training_is_augmented(embedded):
    for split in ("val", "test"):
        dataset = embedded.split_set(split)
        batch = dataset.__getitems__([0, 5, 9])
        assert torch.equal(batch.images, dataset.images[dataset.positions[[0, 5, 9]]])
    assert (embedded.train_set.pad_px, embedded.train_set.hflip) == (2, True)


def test_without_a_validation_part_the_test_images_validate():
    data = FashionMNIST(val_fraction=0.0)
    assert len(data.train_set) == 10_000
    assert torch.equal(data.val_set.images, data.test_set.images)
    assert data.sample_name("val", 0) == "fashion_mnist/test/00000"


def test_mean_and_std_are_those_of_the_full_training_part():
    if not fashion_mnist.DEBIAN_DIR.is_dir():
        pytest.skip("needs the full data set: apt-get install dataset-fashion-mnist")
    data = FashionMNIST(source="full", root="/nonexistent")
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [54_000, 6_000, 10_000]
    values = data.train_set.images.numpy() / np.float32(255)
    assert data.mean == (round(float(values.mean(dtype=np.float64)), 4),)
    assert data.std == (round(float(values.std(dtype=np.float64)), 4),)


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_a_folder_of_ones_own(tmp_path, below, compressed):
    write_fashion_mnist(tmp_path / below, images_per_class=10, compressed=compressed)
    data = FashionMNIST(source="full", root=str(tmp_path))
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [90, 10, 100]
    shipped = {image.numpy().tobytes() for image in FashionMNIST().test_set.images}
    assert {image.numpy().tobytes() for image in data.test_set.images} <= shipped


@pytest.mark.usefixtures("_no_debian")
def test_missing_files_name_the_three_ways_out(tmp_path):
    with pytest.raises(UsageError) as caught:
        FashionMNIST(source="full", root=str(tmp_path)).setup("test")
    for way_out in ("apt-get install dataset-fashion-mnist;", "--data.root FOLDER", "--data.download true"):
        assert way_out in str(caught.value)


def test_images_without_their_labels_are_refused(tmp_path):
    write_fashion_mnist(tmp_path, images_per_class=3)
    other = write_fashion_mnist(tmp_path / "other", images_per_class=2)
    (other / NAMES[1]).rename(tmp_path / NAMES[1])
    with pytest.raises(UsageError, match=r"shape \(30, 28, 28\) does not fit .* with 20 labels up to 9"):
        FashionMNIST(source="full", root=str(tmp_path)).setup("fit")


@pytest.mark.usefixtures("_no_debian")
def test_downloads_once(offered, tmp_path):
    data = FashionMNIST(source="full", root=str(tmp_path / "new" / "root"), download=True)
    data.prepare_data()
    data.setup()
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [10, 10, 20]
    assert [p.name for p in (tmp_path / "new" / "root").iterdir()] == ["FashionMNIST"]
    offered.files.clear()
    data.prepare_data()


@pytest.mark.usefixtures("_no_debian")
def test_an_interrupted_download_changes_nothing(offered, tmp_path):
    root = tmp_path / "root"
    earlier = root / "FashionMNIST" / "raw" / NAMES[0]
    earlier.parent.mkdir(parents=True)
    earlier.write_text("an earlier file")
    offered.cut = {NAMES[2]}
    data = FashionMNIST(source="full", root=str(root), download=True)
    with pytest.raises(
        OSError, match=r"could not download Fashion-MNIST from http://127.*run the command again"
    ) as caught:
        data.prepare_data()
    assert "\n" not in str(caught.value)
    assert [p for p in root.rglob("*") if p.is_file()] == [earlier]
    assert earlier.read_text() == "an earlier file"
    offered.cut = set()
    data.prepare_data()
    assert len(data.test_set) == 20


def test_nothing_is_downloaded_that_is_there(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path, images_per_class=2)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    FashionMNIST(source="full", root=str(tmp_path), download=True).prepare_data()
    FashionMNIST(download=True).prepare_data()
    assert not (tmp_path / "FashionMNIST").exists()
