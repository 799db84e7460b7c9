"""Reading COCO's JSON annotation files, which are simple enough to need no other library."""

from __future__ import annotations

import errno
import json
import math
import unicodedata
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

from cbam_lightning.data.detection.annotations import Annotations, ObjectRow, annotate
from cbam_lightning.errors import UsageError

MAX_INT64 = 2**63 - 1


class CocoFile:
    """An annotation file.

    Args:
        path: The file.

    Attributes:
        content: The lists "images", "annotations" and "categories".

    Raises:
        UsageError: It is not a complete JSON file, or not in this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_bytes(), object_hook=_without_outline)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not a complete JSON file: {error}. Copy it again.") from None
        for key in ("images", "annotations", "categories"):
            listed = content.get(key) if isinstance(content, dict) else None
            if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
                raise UsageError(f"{path} has no list {key!r}; give one of COCO's files instances_*.json.")
        self.content: dict[str, list[dict[str, Any]]] = content

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by their ids, in ascending order."""
        listed = self.content["categories"]
        names = {self.integer("category", item, "id"): str(item.get("name", "")) for item in listed}
        if not names or len(set(names.values()) - {""}) != len(listed):
            raise UsageError(
                f"{self.path} has no categories, or two of one id or name, or one without a name. "
                "Correct the file."
            )
        return dict(sorted(names.items()))

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
            problem = f"{key} is {value!r}; an integer from {least} is needed"
            raise UsageError(f"{self.describe(kind, item)}: {problem}. Correct the file.")
        return value


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    """Drop outlines while reading: they are three quarters of the file, and only boxes are needed."""
    item.pop("segmentation", None)
    return item


def read_coco(file: CocoFile, folder: Path) -> Annotations:
    """Read all annotations of a part.

    Args:
        file: Annotation file of the part.
        folder: Folder of its images.

    Raises:
        UsageError: An image is missing, or an annotation is damaged or of an unknown class or image.
    """
    images, annotations = file.content["images"], file.content["annotations"]
    ids = [file.integer("image", image, "id") for image in images]
    number, times = Counter(ids).most_common(1)[0] if ids else (0, 1)
    if times > 1:
        raise UsageError(
            f"{file.path}: {times} images have the id {number}; ids must be unique. Correct the file."
        )
    paths = [_image_path(file, image, folder) for image in images]
    sizes = [(file.integer("image", i, "height", 1), file.integer("image", i, "width", 1)) for i in images]
    position = {image_id: i for i, image_id in enumerate(ids)}
    labels = {category: label for label, category in enumerate(file.categories, 1)}
    image_of_object = [_known(file, a, "image_id", position) for a in annotations]
    rows = [_object_row(file, a, labels) for a in annotations]
    return annotate(
        paths, ids, sizes, rows, image_of_object, lambda i: file.describe("annotation", annotations[i])
    )


def _image_path(file: CocoFile, image: dict[str, Any], folder: Path) -> str:
    name = str(image.get("file_name", ""))
    path = folder / name
    for form in ("NFC", "NFD"):  # file systems and archives change it
        path = path if _is_file(path) else folder / unicodedata.normalize(form, name)
    if not _is_file(path):
        where, path = file.describe("image", image), folder / name
        raise UsageError(f"{where} should be {str(path)!r:.300}, which does not exist; copy it again.")
    return str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _object_row(file: CocoFile, annotation: dict[str, Any], labels: dict[int, int]) -> ObjectRow:
    left, top, width, height = _numbers(file, annotation, "bbox", annotation.get("bbox"), 4)
    area = width * height
    if "area" in annotation:
        (area,) = _numbers(file, annotation, "area", [annotation["area"]], 1)
    label = _known(file, annotation, "category_id", labels)
    ignore, crowd = (bool(annotation.get(key, 0)) for key in ("ignore", "iscrowd"))
    return (left, top, left + width, top + height), label, ignore, crowd, area


def _known(file: CocoFile, annotation: dict[str, Any], key: str, known: dict[int, int]) -> int:
    number = annotation.get(key)
    if type(number) is not int or number not in known:
        problem = f"{key} is {number!r}; the file has no such {key.removesuffix('_id')}"
        where = file.describe("annotation", annotation)
        raise UsageError(f"{where}: {problem}. Correct or remove it.")
    return known[number]


def _numbers(file: CocoFile, annotation: dict[str, Any], key: str, value: Any, count: int) -> list[float]:
    try:
        values = [float(number) for number in value] if isinstance(value, list) else []
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        needed = "four numbers are" if count == 4 else "a number is"
        where = file.describe("annotation", annotation)
        raise UsageError(f"{where}: {key} is {annotation.get(key)!r}; {needed} needed. Correct or remove it.")
    return values
