"""Deletion, insertion and the pointing game, compared with loops over pixels."""

import math

import torch
from torch import nn

from cbam_lightning.explain.faithfulness import area_under, blur, extent, measure_curves, share_inside
from tests.attention.checks import images
from tests.explain.test_gradcam import assert_same_state, small_resnet, state


def test_curves_change_pixel_by_pixel_in_the_order_of_the_map():
    network, x = small_resnet().train(), images(2, 3, 6, 8)
    maps = images(2, 6, 8).round(decimals=1)  # with ties
    before = state(network)
    curves = measure_curves(network, x, maps, torch.tensor([3, 1]), steps=5)
    assert_same_state(network, before)
    network.eval()
    for i, target in enumerate([3, 1]):
        cells = [(r, c) for r in range(6) for c in range(8)]
        order = sorted(cells, key=lambda cell: -float(maps[i, cell[0], cell[1]]))
        for step in range(6):
            deleted, inserted = x[i].clone(), blur(x)[i].clone()
            for row, column in order[: math.ceil(step * 48 / 5)]:
                deleted[:, row, column] = 0
                inserted[:, row, column] = x[i, :, row, column]
            for curve, image in ((curves.deletion, deleted), (curves.insertion, inserted)):
                expected = network(image[None])[0].softmax(0)[target].detach()
                torch.testing.assert_close(curve[i, step], expected)


class Corner(nn.Module):
    """The pixel in the upper left corner alone decides about the first class."""

    def forward(self, x):
        return torch.stack([10 * x[:, 0, 0, 0], torch.full_like(x[:, 0, 0, 0], 5)], 1)


def test_a_map_of_what_decides_has_a_small_deletion_and_a_large_insertion_area():
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 0, 0] = 1
    right, wrong = torch.zeros(2, 1, 16, 16).unbind()
    right[0, 0, 0], wrong[0, -1, -1] = 1, 1
    wrong[0, 0, 0] = -1
    target = torch.tensor([0])
    good, bad = (measure_curves(Corner(), x, maps, target) for maps in (right, wrong))
    assert area_under(good.deletion) < 0.05 < 0.9 < area_under(bad.deletion)
    assert area_under(bad.insertion) < 0.05 < 0.9 < area_under(good.insertion)


def test_area_is_that_of_the_trapezoids():
    curves = torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    assert area_under(curves).tolist() == [0.5, 1.0]


def test_blur_is_a_gaussian_and_keeps_flat_images():
    x = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
    x[0, 0, 112, 112] = 1
    blurred = blur(x)[0, 0]
    weights = torch.exp(-(torch.arange(-10, 11, dtype=torch.float64) ** 2) / (2 * 5**2))
    weights /= weights.sum()
    torch.testing.assert_close(blurred[102:123, 102:123], torch.outer(weights, weights))
    flat = torch.full((2, 3, 8, 5), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur(flat), flat)


def test_extent_is_the_share_above_half_the_maximum():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.1], [0.0, 0.0]]])
    assert extent(maps).tolist() == [0.5, 0.0, 0.25]


def test_share_inside_a_mask():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[[True, False], [False, True]]] * 2)
    shares = share_inside(maps, masks)
    assert shares[0] == 0.5
    assert shares[1].isnan()
    assert share_inside(
        maps[:1], torch.zeros(1, 2, 2, dtype=torch.bool)
    ).isnan()  # no object, not a share of 0
