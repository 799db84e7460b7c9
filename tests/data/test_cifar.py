import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from cbam_lightning.data import CIFAR10, CIFAR100
from cbam_lightning.errors import UsageError
from tests.data.generate import accept_checksums, write_cifar10, write_cifar100, write_cifar_archive


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    write_cifar10(folder)
    write_cifar100(folder)
    with accept_checksums(folder):
        yield folder


@pytest.mark.parametrize(
    ("module", "num_classes", "name", "sizes"),
    [(CIFAR10, 10, "cifar10", [230, 20, 50]), (CIFAR100, 100, "cifar100", [200, 100, 100])],
)
def test_reads_the_official_format(root, module, num_classes, name, sizes):
    data = module(root=str(root))
    assert (data.num_classes, data.in_channels, data.size_px, data.dataset_name) == (num_classes, 3, 32, name)
    assert len(data.class_names) == num_classes
    assert list(data.class_names) == sorted(data.class_names)
    data.setup()
    assert [len(data.split_set(s)) for s in ("train", "val", "test")] == sizes
    assert torch.bincount(data.test_set.labels).tolist() == [sizes[2] // num_classes] * num_classes
    assert (data.train_set.pad_px, data.train_set.hflip, data.test_set.pad_px) == (4, True, 0)


def test_pixels_are_channels_first_and_in_order(root):
    rows = pickle.loads((root / "cifar-10-batches-py" / "test_batch").read_bytes())
    batch = CIFAR10(root=str(root)).test_set.__getitems__([7, 3])
    expected = np.stack([rows["data"][i].reshape(3, 32, 32) for i in (7, 3)])
    assert np.array_equal(batch.images.numpy(), expected)
    assert batch.labels.tolist() == [rows["labels"][i] for i in (7, 3)]


@pytest.mark.parametrize(
    ("module", "folder"), [(CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")]
)
def test_missing_files_name_the_folder_and_both_ways_out(tmp_path, module, folder):
    with pytest.raises(UsageError, match=rf"{folder} is missing, or .*--data\.root.*--data\.download true"):
        module(root=str(tmp_path)).setup("fit")


def test_a_pickle_with_another_checksum_is_not_loaded(tmp_path):
    write_cifar10(tmp_path)
    with accept_checksums(tmp_path):
        (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        with pytest.raises(UsageError, match="do not have the official checksums"):
            CIFAR10(root=str(tmp_path)).setup("test")


@pytest.mark.parametrize(("module", "write"), [(CIFAR10, write_cifar10), (CIFAR100, write_cifar100)])
def test_downloads_and_recovers_from_an_interruption(file_server, monkeypatch, tmp_path, module, write):
    reader = module.reader
    archive = tmp_path / reader.filename
    write_cifar_archive(write(tmp_path / "offered"), archive)
    file_server.files = {reader.filename: archive.read_bytes()}
    monkeypatch.setattr(reader, "url", file_server.url + reader.filename)
    damaged = tmp_path / "root" / reader.base_folder / reader.meta["filename"]
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")
    data = module(root=str(tmp_path / "root"), download=True)
    with accept_checksums(tmp_path / "offered", archive):
        file_server.cut = {reader.filename}
        with pytest.raises(
            OSError, match=f"^could not download {data.dataset_name} from http.*run the command again.$"
        ):
            data.prepare_data()
        assert [p for p in (tmp_path / "root").rglob("*") if p.is_file()] == [damaged]
        assert damaged.read_text() == "damaged"
        file_server.cut = set()
        data.prepare_data()
        file_server.files.clear()
        data.prepare_data()
        assert len(data.test_set) > 0
    assert [p.name for p in (tmp_path / "root").iterdir()] == [reader.base_folder]


def test_checksums_are_restored(tmp_path):
    write_cifar10(tmp_path, images_per_class=1)
    before = dict(vars(datasets.CIFAR10))
    with accept_checksums(tmp_path):
        assert datasets.CIFAR10.test_list != before["test_list"]
    assert dict(vars(datasets.CIFAR10)) == before
