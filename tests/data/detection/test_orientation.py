"""Real JPEG files with each EXIF orientation: a bright rectangle lies in its box, whichever way up it is."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cbam_lightning.data import CocoDetection, VOCDetection
from cbam_lightning.data.detection.orientation import decode_annotated
from cbam_lightning.data.image_decoding import UndecodableError
from tests.data.detection.written import SIZE, voc_object, write_voc

HEIGHT, WIDTH = 40, 60
ORIENTATIONS = range(1, 9)
AMBIGUOUS = "they are not rotated"


def picture(height=HEIGHT, width=WIDTH):
    """Dark but for a rectangle near the top left corner; box and image are not symmetric."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[4:12, 6:30] = 255
    return Image.fromarray(pixels)


def box_in(pixels):
    rows, columns = (np.asarray(pixels)[..., 0] > 128).nonzero()
    return [int(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def save(path, orientation, image=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image or picture()).save(path, quality=95, exif=exif)


def upright(path):
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def write_one_coco(root, orientation, size, box):
    (root / "annotations").mkdir(parents=True)
    left, top, right, bottom = box
    content = {
        "images": [{"id": 1, "file_name": "a b.jpg", "height": size[0], "width": size[1]}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for part in ("train2017", "val2017"):
        (root / part).mkdir()
        save(root / part / "a b.jpg", orientation)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def only_image(data):
    loaded = data.test_set[0]
    assert loaded.bad == ()
    return loaded.batch.images[0].permute(1, 2, 0), loaded.batch


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.filterwarnings(f"ignore:.*{AMBIGUOUS}")
def test_boxes_of_the_stored_image(tmp_path, orientation):
    box = box_in(picture())
    write_one_coco(tmp_path, orientation, (HEIGHT, WIDTH), box)
    pixels, batch = only_image(CocoDetection(str(tmp_path), val_fraction=0.0))
    assert tuple(pixels.shape) == (HEIGHT, WIDTH, 3)
    assert box_in(pixels) == box == batch.targets[0]["boxes"][0].tolist()
    # by which detections are scaled back for detections.json
    assert batch.original_sizes.tolist() == [[HEIGHT, WIDTH]]


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_boxes_of_the_upright_image(tmp_path, orientation):
    save(tmp_path / "one.jpg", orientation)
    turned = upright(tmp_path / "one.jpg")
    box = box_in(turned)
    assert (box == box_in(picture())) == (orientation == 1)
    write_one_coco(tmp_path / "coco", orientation, (turned.height, turned.width), box)
    pixels, batch = only_image(CocoDetection(str(tmp_path / "coco"), val_fraction=0.0))
    assert box_in(pixels) == box == batch.targets[0]["boxes"][0].tolist()
    assert batch.original_sizes.tolist() == [[turned.height, turned.width]]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("sides", [(HEIGHT, WIDTH), (50, 50)])
def test_what_a_size_does_not_say_is_told(tmp_path, orientation, sides):
    save(tmp_path / "one.jpg", orientation, picture(*sides))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = decode_annotated((tmp_path / "one.jpg").read_bytes(), 3, sides)
    assert box_in(image.permute(1, 2, 0)) == box_in(picture(*sides))
    keeps_its_size = orientation in (2, 3, 4) or (orientation > 4 and sides[0] == sides[1])
    assert [AMBIGUOUS in str(warning.message) for warning in caught] == [True] * keeps_its_size


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_without_an_annotation_an_image_is_upright(tmp_path, orientation):
    save(tmp_path / "one.jpg", orientation)
    image = decode_annotated((tmp_path / "one.jpg").read_bytes(), 3, (0, 0))
    turned = torch.from_numpy(np.array(upright(tmp_path / "one.jpg")))
    assert image.shape[1:] == turned.shape[:2]
    assert box_in(image.permute(1, 2, 0)) == box_in(turned)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_other_formats_have_the_same_rule(tmp_path, suffix):
    save(tmp_path / f"one.{suffix}", 6)
    content, turned = (tmp_path / f"one.{suffix}").read_bytes(), upright(tmp_path / f"one.{suffix}")
    for size, expected in (((HEIGHT, WIDTH), picture()), ((WIDTH, HEIGHT), turned)):
        assert box_in(decode_annotated(content, 3, size).permute(1, 2, 0)) == box_in(expected)


def test_another_size_names_both_of_the_image(tmp_path):
    save(tmp_path / "one.jpg", 6)
    content = (tmp_path / "one.jpg").read_bytes()
    stored = r"\(60 x 40 as stored, before its EXIF rotation\)"
    message = f"^it has 40 x 60 pixels {stored}, its annotation is for 30 x 50$"
    with pytest.raises(UndecodableError, match=message):
        decode_annotated(content, 3, (50, 30))
    save(tmp_path / "two.jpg", 1)
    with pytest.raises(UndecodableError, match=r"^it has 60 x 40 pixels, its annotation is for 30 x 50$"):
        decode_annotated((tmp_path / "two.jpg").read_bytes(), 3, (50, 30))


@pytest.mark.parametrize("size", ["", SIZE])
def test_voc_has_the_same_rule(tmp_path, size):
    left, top, right, bottom = box = box_in(picture())
    for part in ("trainval", "test"):
        folder = write_voc(
            tmp_path, voc_object(box=(left + 1, top + 1, right, bottom)), size=size, image_set=part
        )
    for path in (folder / "JPEGImages").iterdir():
        save(path, 6)
    data = VOCDetection(str(tmp_path), (2007,), ("cat",), size_px=None, augmentation="none")
    pixels, batch = only_image(data)
    assert box_in(pixels) == box == batch.targets[0]["boxes"][0].tolist()
