import warnings

import pytest
import torch

from cbam_lightning.data.detection.annotations import as_objects
from cbam_lightning.data.detection.box_checks import check_boxes
from cbam_lightning.errors import UsageError


def check(*boxes):
    """Check boxes in an image of 20 x 10 pixels."""
    count = len(boxes)
    objects = as_objects([(box, i, False, False, 1.0) for i, box in enumerate(boxes, 1)])
    sizes = torch.tensor([[10, 20]]).expand(count, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked = check_boxes(objects, sizes, lambda i: f"a.xml: object {i + 1}")
    return (*checked, [str(warning.message) for warning in caught])


def test_boxes_inside_stay_as_they_are():
    objects, kept, log = check((0, 0, 20, 10), (1.5, 2.5, 3.25, 4))
    assert objects.boxes.tolist() == [[0, 0, 20, 10], [1.5, 2.5, 3.25, 4]]
    assert objects.boxes.dtype == torch.float32
    assert kept.tolist() == [0, 1]
    assert not log


def test_boxes_are_cut_off_at_the_border_and_counted():
    objects, _, log = check((-3, 2, 5, 6), (1, 1, 2, 2), (15, -1, 22, 11))
    assert objects.boxes.tolist() == [[0, 2, 5, 6], [1, 1, 2, 2], [15, 0, 20, 10]]
    assert log == ["clipped 2 boxes that reach out of their images: a.xml: object 1; a.xml: object 3"]


def test_rounding_is_no_error():
    objects, _, log = check((0, 0, 20.004, 10))
    assert objects.boxes.tolist() == [[0, 0, 20, 10]]
    assert not log


def test_boxes_without_area_are_left_out_and_counted():
    objects, kept, log = check((3, 3, 3, 8), (1, 1, 2, 2), (25, 2, 30, 4), (4, 4, 6, 4))
    assert objects.labels.tolist() == [2]
    assert kept.tolist() == [1]
    assert log == [
        "left out 3 boxes that have no area in their images: "
        "a.xml: object 1; a.xml: object 3; a.xml: object 4"
    ]


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((1, float("nan"), 3, 4), "has a coordinate that is not a finite number: .* 1, nan, 3, 4;"),
        ((1, 2, float("inf"), 4), "has a coordinate that is not a finite number"),
        ((5, 2, 3, 4), "has right < left or bottom < top: .* 5, 2, 3, 4;"),
        ((1, 5, 3, 4), "has right < left or bottom < top"),
    ],
)
def test_boxes_that_mean_nothing_are_refused(box, problem):
    with pytest.raises(UsageError, match=rf"^a\.xml: object 2 {problem}"):
        check((1, 1, 2, 2), box)


def test_each_kind_is_reported_in_one_line():
    _, _, log = check(*[(-3, 2, 5, 6)] * 5, (25, 2, 30, 4))
    shown = "; ".join(f"a.xml: object {i}" for i in (1, 2, 3))
    assert log == [
        f"clipped 5 boxes that reach out of their images: {shown}; and 2 more",
        "left out 1 boxes that have no area in their images: a.xml: object 6",
    ]


def test_no_boxes():
    objects, kept, _ = check()
    assert objects.boxes.shape == (0, 4)
    assert kept.shape == (0,)
