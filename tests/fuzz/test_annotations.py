"""Damaged Pascal VOC and COCO files are read or refused, and never yield an invalid box."""

import json
from pathlib import Path

import pytest

from cbam_lightning.data.detection.coco_files import CocoFile, read_coco
from cbam_lightning.data.detection.voc_files import read_voc
from cbam_lightning.errors import UsageError
from tests.data.detection.written import annotation, voc_object, write_coco, write_voc
from tests.fuzz.damage import altered, damaged, fuzz, lengths


def check(annotations):
    """Check that every box lies in its image and has an area, and that every label is a known class."""
    for i, (height, width) in enumerate(annotations.sizes.tolist()):
        boxes = annotations.of_image(i).boxes.double()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
    assert annotations.objects.labels.ge(1).all()


@lengths(150, 5_000)
def test_a_damaged_xml(examples):
    folder = write_voc(Path(), voc_object() + voc_object("dog", difficult=1))
    path = folder / "Annotations" / "000000.xml"

    def read(content):
        path.write_bytes(content)
        check(read_voc([folder], "trainval", ("cat", "dog")))

    fuzz(examples, damaged(path.read_bytes()), read, UsageError)


@lengths(100, 4_000)
@pytest.mark.parametrize("kind", ["bytes", "values"])
def test_a_damaged_json(examples, kind):
    given = [annotation(1), annotation(2, 9, 90, (1.5, 2.5, 3, 4), area=5.5, iscrowd=1)]
    path = write_coco(Path(), given) / "annotations" / "instances_val2017.json"
    content = path.read_bytes()

    def read(found):
        path.write_bytes(found if kind == "bytes" else json.dumps(found).encode())
        check(read_coco(CocoFile(path), Path("val2017")))

    fuzz(examples, damaged(content) if kind == "bytes" else altered(json.loads(content)), read, UsageError)
