import time

import pytest
import torch
from torch.nn import functional as F

from cbam_lightning.data.arrays import ArrayDataset
from tests.data.generate import patches


def photos(count=64, size_px=12):
    return torch.from_numpy(patches(count, size_px, size_px)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(("pad_px", "hflip"), [(0, False), (0, True), (2, False), (2, True)])
def test_each_augmented_image_is_one_shift_and_flip_of_its_original(pad_px, hflip):
    images = photos()
    batch = ArrayDataset(images, torch.zeros(64), pad_px, hflip).__getitems__(list(range(64)))
    seen = set()
    for original, augmented in zip(images, batch.images, strict=True):
        padded = F.pad(original, (pad_px,) * 4)
        matches = {
            (top, left, flip)
            for top in range(2 * pad_px + 1)
            for left in range(2 * pad_px + 1)
            for flip in {False, hflip}
            if torch.equal(_shifted(padded, top, left, 12, flip), augmented)
        }
        assert len(matches) == 1
        seen |= matches
    num_variants = (2 * pad_px + 1) ** 2 * (1 + hflip)
    assert len(seen) >= 0.6 * num_variants  # 64 draws of at most 50 variants


def _shifted(padded, top, left, size_px, flip):
    window = padded[:, top : top + size_px, left : left + size_px]
    return window.flip(-1) if flip else window


def test_random_numbers_come_from_the_global_generator():
    data = ArrayDataset(photos(), torch.zeros(64), pad_px=2, hflip=True)
    torch.manual_seed(3)
    first = data.__getitems__(list(range(64))).images
    second = data.__getitems__(list(range(64))).images
    torch.manual_seed(3)
    again = data.__getitems__(list(range(64))).images
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_positions_select_images_and_name_them():
    images, labels = photos(8), torch.arange(8)
    data = ArrayDataset(images, labels, part="cifar10/train", positions=torch.tensor([1, 5, 6]))
    batch = data.__getitems__([2, 0])
    assert len(data) == 3
    assert torch.equal(batch.images, images[[6, 1]])
    assert batch.labels.tolist() == [6, 1]
    assert batch.indices.tolist() == [2, 0]
    assert data.name(2) == "cifar10/train/00006"


def test_batch_types_and_a_single_item():
    data = ArrayDataset(photos(4), torch.arange(4))
    batch = data[3]
    assert (batch.images.dtype, batch.labels.dtype, batch.indices.dtype) == (
        torch.uint8,
        torch.int64,
        torch.int64,
    )
    assert batch.images.shape == (1, 3, 12, 12)
    assert batch.indices.tolist() == [3]
    assert data.__getitems__([]).images.shape == (0, 3, 12, 12)


@pytest.fixture
def _one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads wait for each other longer than they work
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("_one_thread")
def test_a_batch_of_128_takes_less_than_2_ms():
    data = ArrayDataset(photos(1000, 28)[:, :1].contiguous(), torch.zeros(1000), pad_px=2, hflip=True)
    durations_s = []
    for start in range(50):
        begin = time.perf_counter()
        data.__getitems__(list(range(start, start + 128)))
        durations_s.append(time.perf_counter() - begin)
    assert min(durations_s) < 2e-3
