import re

import pytest

from cbam_lightning.data.detection.voc_files import read_voc, read_xml
from cbam_lightning.errors import UsageError
from tests.data.detection.written import BOX, HEIGHT, SIZE, WIDTH, voc_object, write_voc

CLASSES = ("cat", "dog")


def read(*folders):
    return read_voc(folders, "trainval", CLASSES)


def first_xml(folder):
    return folder / "Annotations" / "000000.xml"


def refuse(folder, message):
    with pytest.raises(UsageError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_coordinates_count_from_0_and_end_behind_the_last_pixel(tmp_path):
    folder = write_voc(
        tmp_path, voc_object("dog", (1, 1, 1, 1)) + voc_object("cat", (11, 6, WIDTH, HEIGHT), 1)
    )
    annotations = read(folder)
    objects = annotations.of_image(0)
    assert objects.boxes.tolist() == [[0, 0, 1, 1], [10, 5, WIDTH, HEIGHT]]  # one pixel; up to the corner
    assert objects.areas.tolist() == [1, (WIDTH - 10) * (HEIGHT - 5)]
    assert objects.labels.tolist() == [2, 1]
    assert objects.difficult.tolist() == [False, True]
    assert not objects.crowd.any()
    assert annotations.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert annotations.name(0) == str(folder / "JPEGImages" / "000000.jpg")


def test_parts_of_a_person_are_not_objects(tmp_path):
    part = f"<part><name>head</name>{BOX.format(1, 2, 3, 4)}</part>"
    whole = voc_object().replace("<difficult>", f"{part}<difficult>")
    objects = read(write_voc(tmp_path, whole)).of_image(0)
    assert objects.boxes.tolist() == [[10, 5, 30, 25]]


def test_both_years_in_one_and_their_numbers(tmp_path):
    folders = [write_voc(tmp_path, voc_object(), "", year=year) for year in (2007, 2012)]
    annotations = read(*folders)
    assert annotations.image_ids.tolist() == [0, 1, 2012000000, 2012000001]
    assert annotations.image_of_object.tolist() == [0, 2]


def test_names_that_are_no_numbers_are_counted(tmp_path):
    folder = write_voc(tmp_path, voc_object(), voc_object("dog"))
    for kind, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (folder / kind / f"000000.{suffix}").rename(folder / kind / f"rex-1.{suffix}")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("rex-1  1\n\n000001 -1\n")
    annotations = read(folder)
    assert annotations.image_ids.tolist() == [1, 2]
    assert annotations.objects.labels.tolist() == [1, 2]


@pytest.mark.parametrize("size", ["", SIZE.replace(str(WIDTH), "0")])
def test_a_size_that_is_not_given_is_that_of_the_image(tmp_path, size):
    assert read(write_voc(tmp_path, voc_object(), size=size)).sizes.tolist() == [[HEIGHT, WIDTH]]


def test_boxes_beyond_the_border_are_counted(tmp_path):
    folder = write_voc(
        tmp_path, "", voc_object() + voc_object("dog", (50, 5, 70, 45)) + voc_object(box=(5, 5, 4, 9))
    )
    with pytest.warns(UserWarning, match="boxes that") as caught:
        objects = read(folder).of_image(1)
    assert objects.boxes.tolist() == [[10, 5, 30, 25], [49, 4, WIDTH, HEIGHT]]
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        f"{folder}/Annotations/000001.xml: object 2 ('dog')",
        f"{folder}/Annotations/000001.xml: object 3 ('cat')",
    ]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (voc_object() + voc_object("cta"), r"object 2 \('cta'\): unknown class 'cta'\. Did you mean 'cat'\?"),
        (voc_object(box=("nan", 1, 2, 3)), r"\('cat'\) has a coordinate that is not a finite number"),
        (voc_object(box=(9, 1, 2, 3)), r"object 1 \('cat'\) has right < left or bottom < top"),
        (voc_object(box=("", 1, 2, 3)), r"object 1 \('cat'\): bndbox xmin is ''; a number is needed"),
        (voc_object().replace("<ymax>25</ymax>", ""), r"object 1 \('cat'\): bndbox ymax is None"),
        (voc_object(difficult="no"), r"object 1 \('cat'\): difficult is 'no'"),
        (voc_object(name=""), r"object 1 has no name"),
        ("<object>", r"000000\.xml is not a complete XML file: mismatched tag"),
    ],
)
def test_errors_name_file_and_object(tmp_path, objects, message):
    refuse(write_voc(tmp_path, objects), f"{re.escape(str(tmp_path))}.*{message}")


def test_a_file_that_is_cut_off_or_something_else(tmp_path):
    folder = write_voc(tmp_path, voc_object())
    whole = first_xml(folder).read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"\xff\xd8\xff",
        b'<?xml version="1.0" encoding="x"?><a/>',
    ):
        first_xml(folder).write_bytes(content)
        refuse(folder, r"000000\.xml is not a complete XML file: .*\. Copy it again\.")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_not_expanded(tmp_path, encoding):
    entities = '<!ENTITY b "dog"><!ENTITY c "&b;&b;">'
    named = "<annotation><object><name>&c;</name></object></annotation>"
    bomb = f"<!DOCTYPE a [{entities}]>{named}"
    path = tmp_path / "bomb.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding))
    with pytest.raises(UsageError, match="it has a document type, which can hold an entity bomb"):
        read_xml(path)


def test_files_that_are_missing(tmp_path):
    folder = write_voc(tmp_path, voc_object(), voc_object())
    (folder / "JPEGImages" / "000001.jpg").rename(tmp_path / "away.jpg")
    refuse(folder, r"there is no image .*000001\.jpg, which .*000001\.xml describes")
    first_xml(folder).unlink()
    refuse(folder, r"there is no .*000000\.xml, the annotation of a listed image")
    image_list = folder / "ImageSets" / "Main" / "trainval.txt"
    image_list.write_text("000000\n000000\n")
    refuse(folder, r"trainval\.txt names 1 different images on 2 lines")
    image_list.unlink()
    refuse(folder, r"there is no .*trainval\.txt, the list of the images")


def test_an_image_whose_size_is_needed_but_cannot_be_read(tmp_path):
    folder = write_voc(tmp_path, voc_object(), size="")
    (folder / "JPEGImages" / "000000.jpg").write_text("no image")
    refuse(folder, r"cannot read the size of .*000000\.jpg")
