import math
import pickle

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cbam_lightning.data.cropping import (
    EvalTransform,
    TrainTransform,
    random_box,
    resize,
    resize_shorter_side,
    stack,
)
from tests.data.generate import patches


def photograph(height=300, width=400, seed=0):
    """As decoders return it: (3, H, W) with the channels of a pixel side by side."""
    return torch.from_numpy(patches(1, height, width, seed)[0]).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 341), (97, 613), (41, 41)])
@pytest.mark.parametrize(("size_px", "resize_px"), [(224, 256), (32, 37), (33, 33)])
def test_evaluation_equals_torchvision(height, width, size_px, resize_px):
    image = photograph(height, width)
    theirs = v2.Compose([v2.Resize(resize_px, antialias=True), v2.CenterCrop(size_px)])
    assert torch.equal(EvalTransform(size_px, resize_px)(image), theirs(image))


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 300, 400), (30, 40, 200, 150), (299, 0, 1, 400), (10, 399, 5, 1)])
def test_a_resized_part_equals_torchvision(box, contiguous):
    image = photograph().contiguous() if contiguous else photograph()
    assert torch.equal(
        resize(image, box, (224, 224)), F.resized_crop(image, *box, [224, 224], antialias=True)
    )
    grey = image[:1]
    assert torch.equal(resize(grey, box, (64, 48)), F.resized_crop(grey, *box, [64, 48], antialias=True))


def test_nothing_is_resized_that_fits():
    image = photograph(256, 341)
    assert resize_shorter_side(image, 256) is image
    assert resize_shorter_side(image, 128).shape == (3, 128, 170)  # 341 / 2 rounded down


def test_boxes_are_distributed_as_those_of_torchvision():
    torch.manual_seed(0)
    ours = [random_box(375, 500, (0.08, 1.0)) for _ in range(4000)]
    crop, image = v2.RandomResizedCrop(224, scale=(0.08, 1.0)), torch.empty(3, 375, 500)
    params = [crop.make_params([image]) for _ in range(4000)]
    theirs = [(p["top"], p["left"], p["height"], p["width"]) for p in params]
    for quantity in (
        lambda top, left, height, width: height * width / (375 * 500),
        lambda top, left, height, width: math.log(width / height),
        lambda top, left, height, width: (top + height / 2) / 375,
        lambda top, left, height, width: (left + width / 2) / 500,
    ):
        a = torch.tensor([quantity(*box) for box in ours]).sort().values
        b = torch.tensor([quantity(*box) for box in theirs]).sort().values
        # Kolmogorov-Smirnov: for 4000 and 4000 values of one distribution, above 0.043 once in 1000 times
        below_a, below_b = (torch.searchsorted(x, torch.cat([a, b]), right=True) / 4000 for x in (a, b))
        assert (below_a - below_b).abs().max() < 0.043
    areas = torch.tensor([h * w / (375 * 500) for _, _, h, w in ours])
    assert areas.min() > 0.079
    assert all(0.74 < w / h < 1.35 and t + h <= 375 and x + w <= 500 for t, x, h, w in ours)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(100, 400, (0, 133, 100, 133)), (400, 100, (133, 0, 133, 100)), (120, 120, (0, 0, 120, 120))],
)
def test_the_largest_allowed_box_is_taken_where_none_fits(height, width, box):
    area = 1.0 if height != width else 3.0  # of a square, only more than all of it does not fit
    assert random_box(height, width, (area, area)) == box


@pytest.mark.parametrize("hflip", [False, True])
def test_training_cuts_at_random_and_flips(hflip):
    gradient = torch.arange(256, dtype=torch.uint8).expand(1, 64, 256)  # dark on the left
    transform = TrainTransform(32, (0.08, 1.0), hflip)
    torch.manual_seed(0)
    cuts = [transform(gradient) for _ in range(40)]
    assert all(cut.shape == (1, 32, 32) and cut.dtype == torch.uint8 for cut in cuts)
    flipped = [bool(cut[0, 0, 0] > cut[0, 0, -1]) for cut in cuts]
    assert any(flipped) == hflip
    assert not all(flipped)
    widths = {int(cut.max()) - int(cut.min()) for cut in cuts}
    assert len(widths) > 10
    torch.manual_seed(0)
    assert all(torch.equal(cut, transform(gradient)) for cut in cuts)


def test_the_whole_square_is_cut_with_a_scale_of_1():
    image = photograph(48, 48)
    whole = F.resize(image, [32, 32], antialias=True)
    torch.manual_seed(0)
    cuts = [TrainTransform(32, (1.0, 1.0), hflip=False)(image) for _ in range(40)]
    assert any(torch.equal(cut, whole) for cut in cuts)  # where the drawn aspect ratio does not fit


def test_a_stack_keeps_the_pixels_together():
    images = [photograph(32, 40, seed) for seed in range(3)]
    batch = stack(images, (3, 32, 40))
    assert torch.equal(batch, torch.stack(images))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_transforms_reach_worker_processes_that_are_spawned():
    for transform in (TrainTransform(32, (0.08, 1.0), True), EvalTransform(32, 37)):
        assert pickle.loads(pickle.dumps(transform)) == transform
