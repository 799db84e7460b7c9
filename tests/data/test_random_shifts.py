import numpy as np
import pytest
import torch

from cbam_lightning.data.random_shifts import draw_shifts, mirrored, padded, windows
from cbam_lightning.seeding import image_seeds

LARGE = 2**64 - 1


@pytest.mark.parametrize("pad_px", [0, 2, 4])
def test_shifts_are_the_stated_bits_of_the_seeds(pad_px):
    seeds = [0, 2, 4, 2**33, LARGE, 0x0123456789ABCDEF]
    top, left, flip = draw_shifts(np.array(seeds, dtype=np.uint64), pad_px)
    places = 2 * pad_px + 1
    assert top.tolist() == [(seed >> 2) % 2**31 % places for seed in seeds]
    assert left.tolist() == [(seed >> 33) % places for seed in seeds]
    assert flip.tolist() == [seed >> 1 & 1 for seed in seeds]


def test_shifts_are_uniform_and_independent():
    shifts = np.stack(draw_shifts(image_seeds(3, np.arange(20_000)), 2))
    counts = np.unique(shifts, axis=1, return_counts=True)[1]
    assert len(counts) == 50
    assert counts.min() > 320  # of 400, four standard deviations
    assert counts.max() < 480


def test_windows_are_views_of_the_padded_images():
    images = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4)
    larger = padded(images, 1)
    views = windows(larger, 1)
    assert views.shape == (1, 1, 3, 3, 3, 4)
    assert torch.equal(views[:, :, 1, 1], images)
    assert torch.equal(views[0, 0, 0, 2], torch.tensor([[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0]]).byte())
    assert views.untyped_storage().data_ptr() == larger.untyped_storage().data_ptr()
    assert padded(images, 0) is images


def test_only_the_chosen_images_are_mirrored():
    images = torch.arange(12).reshape(2, 1, 2, 3)
    assert mirrored(images, torch.tensor([0, 1])).tolist() == [
        [[[0, 1, 2], [3, 4, 5]]],
        [[[8, 7, 6], [11, 10, 9]]],
    ]
