import json
import re

import pytest

from cbam_lightning.data.detection.coco_files import CocoFile, read_coco
from cbam_lightning.errors import UsageError
from tests.data.detection.written import HEIGHT, WIDTH, annotation, write_coco


def read(root):
    path = root / "annotations" / "instances_val2017.json"
    return read_coco(CocoFile(path), root / "val2017")


def refuse(root, message):
    where = re.escape(str(root / "annotations" / "instances_val2017.json"))
    with pytest.raises(UsageError, match=f"^{where}{message}") as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_boxes_classes_and_marks(tmp_path):
    given = [
        annotation(1, 9, 90, (1.5, 2.25, 10, 20.5), area=33.5),
        annotation(2, 5, 3, iscrowd=1, segmentation={"counts": [1, 2], "size": [1, 3]}),
        annotation(3, 9, 17, (0, 0, WIDTH, HEIGHT), ignore=1),
    ]
    annotations = read(write_coco(tmp_path, given))
    assert annotations.image_ids.tolist() == [5, 9]
    assert annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    first, second = (annotations.of_image(i) for i in range(2))
    assert first.boxes.tolist() == [[10, 5, 30, 25]]
    assert second.boxes.tolist() == [[1.5, 2.25, 11.5, 22.75], [0, 0, WIDTH, HEIGHT]]
    assert (first.labels.tolist(), second.labels.tolist()) == ([1], [3, 2])  # of the categories 3, 17 and 90
    assert (first.crowd.tolist(), second.crowd.tolist()) == ([True], [False, False])
    assert (first.difficult.tolist(), second.difficult.tolist()) == ([False], [False, True])
    assert (first.areas.tolist(), second.areas.tolist()) == ([400], [33.5, WIDTH * HEIGHT])


def test_categories_in_ascending_order(tmp_path):
    root = write_coco(tmp_path, [])
    found = CocoFile(root / "annotations" / "instances_train2017.json").categories
    assert list(found.items()) == [(3, "cat"), (17, "dog"), (90, "toothbrush")]
    assert len(read(root).objects.labels) == 0


def test_boxes_beyond_the_border_are_counted(tmp_path):
    given = [annotation(4, bbox=(50, 30, 20.5, 20)), annotation(5, bbox=(3, 3, 0, 5)), annotation(6)]
    with pytest.warns(UserWarning, match="boxes that") as caught:
        objects = read(write_coco(tmp_path, given)).of_image(0)
    assert objects.boxes.tolist() == [[50, 30, WIDTH, HEIGHT], [10, 5, 30, 25]]
    assert [str(warning.message).rpartition(": ")[2] for warning in caught] == [
        "annotation 4",
        "annotation 5",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"category": 4}, "category_id is 4; the file has no such category"),
        ({"category": "3"}, "category_id is '3'; the file has no such category"),
        ({"image": 6}, "image_id is 6; the file has no such image"),
        ({"image": True}, "image_id is True; the file has no such image"),
        ({"bbox": (1, 2, 3)}, r"bbox is \[1, 2, 3\]; four numbers are needed"),
        ({"bbox": ("a", 2, 3, 4)}, "bbox is .*; four numbers are needed"),
        ({"bbox": (1, float("nan"), 3, 4)}, r"bbox is \[1, nan, 3, 4\]; four numbers are needed"),
        ({"bbox": (1, 2, -3, 4)}, r" ?has right < left or bottom < top"),
        ({"area": None}, "area is None; a number is needed"),
    ],
)
def test_errors_name_file_and_annotation(tmp_path, wrong, message):
    refuse(write_coco(tmp_path, [annotation(1), annotation(8, **wrong)]), f": annotation 8:? ?{message}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": None}, " has no list 'images'"),
        ({"annotations": [3]}, " has no list 'annotations'"),
        ({"images": [{"id": -1}]}, ": image -1: id is -1; an integer from 0 is needed"),
        ({"images": [{"id": 2**63}]}, r": image \d+: id is \d+; an integer"),
        ({"images": [{"file_name": "a.jpg"}]}, ": image None: id is None; an integer"),
        (
            {"images": [{"id": 5, "file_name": "no.jpg"}]},
            ": image 5 should be '.*/val2017/no.jpg', which does not exist",
        ),
        (
            {"images": [{"id": 5, "file_name": "no" * 2000}]},
            ": image 5 should be '.*nono.*, which does not exist",
        ),
        ({"images": [{"id": 5, "file_name": "000000000005.jpg", "height": 0}]}, ": image 5: height is 0"),
        ({"images": [{"id": 5, "file_name": "000000000005.jpg"}] * 2}, ": 2 images have the id 5"),
        ({"categories": []}, " has no categories"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            " has no categories, or two of one id",
        ),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
            " has no categories, or two of one",
        ),
        ({"categories": [{"id": 1}]}, " has no categories, .* or one without a name"),
    ],
)
def test_errors_name_what_is_wrong_with_the_file(tmp_path, wrong, message):
    refuse(write_coco(tmp_path, [], replaced=wrong), message)


def test_a_file_that_is_cut_off_or_something_else(tmp_path):
    path = write_coco(tmp_path, [annotation()]) / "annotations" / "instances_val2017.json"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\xff\xd8\xff", b"[" * 200_000):
        path.write_bytes(content)
        refuse(tmp_path, r" is not a complete JSON file: .*\. Copy it again\.")
    path.write_text(json.dumps([1]))
    refuse(tmp_path, " has no list 'images'")
