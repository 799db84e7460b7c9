import errno
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.cropping import EvalTransform
from cbam_lightning.data.image_files import FileDataset, find_files, find_image_files
from cbam_lightning.data.split_dataset import Preparation, usable_cores
from cbam_lightning.errors import UsageError
from tests.data.generate import patches, save_image, write_image_folder


def dataset(paths, channels=3):
    labels = torch.arange(len(paths))
    return FileDataset([str(p) for p in paths], labels, Preparation(EvalTransform(32, 37), channels, 32))


@pytest.fixture
def files(tmp_path):
    """Four images; the second is a text file, the third is truncated, the fifth has an unusual name."""
    write_image_folder(tmp_path, ["a"], 4)
    paths = sorted((tmp_path / "a").iterdir())
    paths[1].write_text("no image")
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: len(content) // 2])
    paths.append(tmp_path / "a" / "notes.txt")
    paths[-1].write_text("no image either")
    return paths


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_left_out_and_listed(files, num_workers):
    loader = DataLoader(dataset(files), batch_size=5, num_workers=num_workers, collate_fn=lambda batch: batch)
    (batch,) = loader
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [0, 3]
    assert batch.indices.tolist() == [0, 3]
    assert [bad.path for bad in batch.bad] == [str(files[i]) for i in (1, 2, 4)]
    assert [bad.errno for bad in batch.bad] == [None] * 3
    assert batch.bad[0].reason == "not an image of a known format"
    assert "truncated" in batch.bad[1].reason.lower()
    assert batch.bad[2].reason.startswith("its name is not that of an image (.bmp, ")


def test_a_batch_of_bad_images_only_keeps_its_shape(files):
    batch = dataset(files, channels=1)[1]
    assert batch.images.shape == (0, 1, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert len(batch.bad) == 1


def test_an_unreadable_file_carries_the_error_number(tmp_path):
    batch = dataset([tmp_path / "gone.jpg"])[0]
    assert batch.bad == (BadImage(str(tmp_path / "gone.jpg"), "No such file or directory", errno.ENOENT),)


def test_finds_visible_files_sorted(tmp_path):
    for name in (
        "b/x.jpg",
        "b/c/y.png",
        "a.jpg",
        ".hidden",
        ".git/z.jpg",
        "Thumbs.db",
        "b/desktop.ini",
        "n.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = [str(tmp_path / name) for name in ("a.jpg", "b/c/y.png", "b/x.jpg", "n.txt")]
    assert find_files(tmp_path) == expected
    assert find_image_files(tmp_path) == expected
    assert find_image_files(tmp_path / "a.jpg") == expected[:1]


def test_predicting_nothing_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"predict_path .*none does not exist; give an image file or a folder"
    ):
        find_image_files(tmp_path / "none")
    with pytest.raises(UsageError, match=r"predict_path .* is an empty folder; give"):
        find_image_files(tmp_path)


def test_names_survive_any_character(tmp_path):
    path = tmp_path / "größe 1.png"
    save_image(patches(1, 40, 40)[0], path)
    data = dataset([path])
    assert data.name(0) == str(path)
    assert data[0].bad == ()


def test_default_number_of_workers(files):
    assert dataset(files).default_num_workers == min(8, usable_cores())


def test_a_link_back_is_not_followed_and_others_are(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/1.png", "a/b/2.png", "elsewhere/3.png"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "to").symlink_to(tmp_path / "elsewhere")
    found = [str(Path(path).relative_to(tmp_path / "a")) for path in find_files(tmp_path / "a")]
    assert found == ["1.png", "b/2.png", "b/to/3.png"]
