"""Reading COCO's JSON annotation files, which are simple enough to need no other library."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cbam_lightning.data.detection.annotations import Annotations, annotate, as_objects
from cbam_lightning.data.detection.box_checks import BoxLog, check_boxes
from cbam_lightning.data.split_dataset import as_index
from cbam_lightning.errors import UsageError

MAX_INT64 = 2**63 - 1


class CocoFile:
    """An annotation file.

    Args:
        path: The file.

    Raises:
        UsageError: It is not a complete JSON file, or not in this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                content = json.loads(file.read(), object_hook=_without_outline)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{path} is not a complete JSON file: {error}. Replace it with a fresh copy."
            ) from None
        for key in ("images", "annotations", "categories"):
            listed = content.get(key) if isinstance(content, dict) else None
            if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
                raise UsageError(f"{path} has no list {key!r}; give one of COCO's files instances_*.json.")
        self._content: dict[str, list[dict[str, Any]]] = content

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by their ids, in ascending order."""
        names = {self.integer("category", c, "id"): str(c.get("name", "")) for c in self.listed("categories")}
        if not names or len(set(names.values()) - {""}) != len(self.listed("categories")):
            message = f"{self.path} has no categories, or two of one id or name, or one without a name."
            raise UsageError(message + " Correct the file.")
        return dict(sorted(names.items()))

    def listed(self, key: str) -> list[dict[str, Any]]:
        """Return the images, annotations or categories."""
        return self._content[key]

    def describe(self, kind: str, item: dict[str, Any]) -> str:
        """Return the file and the place of an image, annotation or category, for messages."""
        return f"{self.path}: {kind} {item.get('id')!r}"

    def integer(self, kind: str, item: dict[str, Any], key: str, least: int = 0) -> int:
        """Return an integer of an image, annotation or category.

        Raises:
            UsageError: It is missing, or not an integer from ``least``.
        """
        value = item.get(key)
        if type(value) is not int or not least <= value <= MAX_INT64:
            message = f"{self.describe(kind, item)}: {key} is {value!r}; an integer from {least} is needed."
            raise UsageError(message + " Correct the file.")
        return value


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    """Drop outlines while reading: they are three quarters of the file, and only boxes are needed."""
    item.pop("segmentation", None)
    return item


def read_coco(file: CocoFile, folder: Path, log: BoxLog) -> Annotations:
    """Read all annotations of a part.

    Args:
        file: Annotation file of the part.
        folder: Folder of its images.
        log: Log of the boxes that were corrected.

    Raises:
        UsageError: An image is missing, or an annotation is damaged or of an unknown class or image.
    """
    images, annotations = file.listed("images"), file.listed("annotations")
    ids = [file.integer("image", image, "id") for image in images]
    _refuse_twice(file, "image", ids)
    paths = [_image_path(file, image, folder) for image in images]
    sizes = as_index([file.integer("image", i, s, 1) for i in images for s in ("height", "width")])
    sizes = sizes.reshape(-1, 2)
    position = {image_id: i for i, image_id in enumerate(ids)}
    labels = {category: label for label, category in enumerate(file.categories, 1)}
    image_of_object = as_index([_known(file, a, "image_id", position) for a in annotations])
    boxes = torch.tensor([_box(file, a) for a in annotations], dtype=torch.float64).reshape(-1, 4)
    objects = as_objects(
        [],
        [_known(file, a, "category_id", labels) for a in annotations],
        [bool(a.get("ignore", 0)) for a in annotations],
        [bool(a.get("iscrowd", 0)) for a in annotations],
        [_area(file, a) for a in annotations],
    )
    boxes[:, 2:] += boxes[:, :2]
    objects, kept = check_boxes(
        objects._replace(boxes=boxes),
        sizes[image_of_object],
        lambda index: file.describe("annotation", annotations[index]),
        log,
    )
    return annotate(paths, ids, sizes, objects, image_of_object[kept])


def _image_path(file: CocoFile, image: dict[str, Any], folder: Path) -> str:
    path = folder / str(image.get("file_name", ""))
    if not path.is_file():
        where = file.describe("image", image)
        raise UsageError(f"{where} should be {str(path)!r}, which does not exist; copy it again.")
    return str(path)


def _known(file: CocoFile, annotation: dict[str, Any], key: str, known: dict[int, int]) -> int:
    number = annotation.get(key)
    if type(number) is not int or number not in known:
        what = "image" if key == "image_id" else "category"
        message = (
            f"{file.describe('annotation', annotation)}: {key} is {number!r}; the file has no such {what}."
        )
        raise UsageError(message + " Correct or remove it.")
    return known[number]


def _box(file: CocoFile, annotation: dict[str, Any]) -> list[float]:
    """Return left, top, width and height."""
    return _numbers(file, annotation, "bbox", annotation.get("bbox"), 4)


def _area(file: CocoFile, annotation: dict[str, Any]) -> float:
    """Return the area of the object in pixels, or that of its box if the file has none."""
    if "area" in annotation:
        return _numbers(file, annotation, "area", [annotation["area"]], 1)[0]
    _, _, width, height = _box(file, annotation)
    return width * height


def _numbers(file: CocoFile, annotation: dict[str, Any], key: str, value: Any, count: int) -> list[float]:
    try:
        values = [float(number) for number in value] if isinstance(value, list) else []
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        needed = "four numbers are" if count == 4 else "a number is"
        message = (
            f"{file.describe('annotation', annotation)}: {key} is {annotation.get(key)!r}; {needed} needed."
        )
        raise UsageError(message + " Correct or remove it.")
    return values


def _refuse_twice(file: CocoFile, kind: str, ids: Sequence[int]) -> None:
    number, times = Counter(ids).most_common(1)[0] if ids else (0, 1)
    if times > 1:
        raise UsageError(
            f"{file.path}: {times} images have the id {number}; ids must be unique. Correct the file."
        )
