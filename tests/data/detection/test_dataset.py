import numpy as np
import pytest
import torch

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.detection.annotations import without_objects
from cbam_lightning.data.detection.augmentation import Augmented
from cbam_lightning.data.detection.dataset import DetectionFiles, DetectionImages
from cbam_lightning.data.detection.voc_files import read_voc
from cbam_lightning.data.split_dataset import SampleRequest
from tests.data.detection.written import HEIGHT, WIDTH, voc_object, write_voc
from tests.data.generate import patches, save_image

MEAN = (0.5, 0.5, 0.5)


@pytest.fixture
def folder(tmp_path):
    return write_voc(tmp_path, voc_object(), voc_object("dog") + voc_object(), "")


def files(folder, augmentation="none", size_px=None):
    annotations = read_voc([folder], "trainval", ("cat", "dog"))
    return DetectionFiles(annotations, Augmented(augmentation, size_px, MEAN), 3)


def test_a_batch_has_images_of_their_sizes_and_all_that_belongs_to_them(folder):
    loaded = files(folder)[[2, 1]]
    assert loaded.bad == ()
    batch = loaded.batch
    assert [tuple(image.shape) for image in batch.images] == [(3, HEIGHT, WIDTH)] * 2
    assert batch.indices.tolist() == batch.image_ids.tolist() == [2, 1]
    assert batch.original_sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert [target["labels"].tolist() for target in batch.targets] == [[], [2, 1]]
    assert set(batch.targets[0]) == {"boxes", "labels", "difficult", "crowd", "areas"}
    assert batch.targets[0]["boxes"].shape == (0, 4)
    pixels = torch.from_numpy(patches(3, HEIGHT, WIDTH)).permute(0, 3, 1, 2)[[2, 1]]
    assert (torch.stack(batch.images).int() - pixels.int()).abs().float().mean() < 8  # JPEG


def test_sizes_are_those_on_disk_whatever_the_batch_has(folder):
    batch = files(folder, size_px=20)[0].batch
    assert batch.images[0].shape == (3, 20, 20)
    assert batch.original_sizes.tolist() == [[HEIGHT, WIDTH]]
    torch.testing.assert_close(
        batch.targets[0]["boxes"],
        torch.tensor([[10 * 20 / WIDTH, 5 * 20 / HEIGHT, 30 * 20 / WIDTH, 25 * 20 / HEIGHT]]),
    )


def test_random_numbers_follow_the_draw_and_leave_the_generator_alone(folder):
    dataset = files(folder, "ssd", 32)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = dataset[[SampleRequest(1, 7), SampleRequest(0, 8)]].batch
    again = dataset[[SampleRequest(0, 8)]].batch
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.images[1], again.images[0])
    assert torch.equal(first.targets[1]["boxes"], again.targets[0]["boxes"])
    assert not torch.equal(dataset[[SampleRequest(0, 9)]].batch.images[0], again.images[0])


def test_damaged_files_are_left_out_and_listed(folder):
    content = (folder / "JPEGImages" / "000001.jpg").read_bytes()
    dataset = files(folder)
    (folder / "JPEGImages" / "000001.jpg").write_bytes(content[: len(content) // 2])
    loaded = dataset[[0, 1, 2]]
    assert loaded.batch.indices.tolist() == [0, 2]
    assert [image.path for image in loaded.bad] == [dataset.name(1)]
    batch = dataset[[1]].batch
    assert (batch.images, batch.targets) == ([], [])
    assert batch.original_sizes.shape == (0, 2)


def test_an_image_of_another_size_than_its_boxes_are_for(folder):
    path = folder / "JPEGImages" / "000000.jpg"
    save_image(patches(1, 30, 50)[0], path)
    assert files(folder)[0].bad == (
        BadImage(str(path), "it has 50 x 30 pixels, its annotation is for 60 x 40"),
    )


def test_a_file_that_is_gone_ends_the_batch(folder):
    dataset = files(folder)
    (folder / "JPEGImages" / "000000.jpg").unlink()
    loaded = dataset[[0, 1]]
    assert len(loaded.batch.images) == 0
    assert loaded.bad[0].errno


def test_images_in_memory():
    images = torch.from_numpy(np.arange(2 * 3 * 4 * 5, dtype=np.uint8)).reshape(2, 3, 4, 5)
    dataset = DetectionImages(without_objects(["a", "b"]), Augmented("none", None, MEAN), images)
    batch = dataset[1].batch
    assert torch.equal(batch.images[0], images[1])
    assert (len(dataset), dataset.name(1)) == (2, "b")


def test_images_of_different_sizes_stay_apart_and_others_are_one_tensor(tmp_path):
    for i, (height, width) in enumerate([(30, 90), (20, 10), (20, 10)]):
        save_image(patches(1, height, width)[0], tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    dataset = DetectionFiles(without_objects(paths), Augmented("none", None, MEAN), 3)
    assert [tuple(image.shape) for image in dataset[[0, 1]].images] == [(3, 30, 90), (3, 20, 10)]
    loaded = dataset[[1, 2]]
    assert loaded.images.shape == (2, 3, 20, 10)
    assert torch.equal(loaded.batch.images[1], torch.from_numpy(patches(1, 20, 10)[0]).permute(2, 0, 1))
