"""Reading the annotations of Pascal VOC: one XML file per listed image, with its objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from PIL import Image

from cbam_lightning.data.detection.annotations import Annotations, ObjectRow, annotate
from cbam_lightning.data.detection.voc_lists import NamedFiles, read_names
from cbam_lightning.data.image_decoding import FORMATS, SUFFIXES
from cbam_lightning.errors import UsageError, unknown_name

_MAX_SIDE_PX = 2**31  # larger sizes are treated as missing
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object as in its file.

    Attributes:
        where: Its file and place, for error messages.
        name: Name of the class.
        box: Left, top, right and bottom, counting pixels from 1 and including the last ones.
        difficult: Whether it is marked as difficult.
    """

    where: str
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _Listed(NamedTuple):
    """A listed image with its height and width and its objects."""

    path: Path
    name: str
    size: tuple[int, int]
    objects: list[VocObject]


def read_voc(folders: Sequence[Path], image_set: str, class_names: Sequence[str]) -> Annotations:
    """Read all annotations of an image set.

    Args:
        folders: Such as VOCdevkit/VOC2007.
        image_set: Name of the list in ImageSets/Main, without ending.
        class_names: Names of the classes in the order of the labels, which start at 1.

    Raises:
        UsageError: A file is missing or damaged, or an object is of an unknown class.
    """
    images = [image for folder in folders for image in _listed_images(folder, image_set)]
    voc_objects = [voc_object for image in images for voc_object in image.objects]
    return annotate(
        [str(image.path) for image in images],
        _numbers([image.name for image in images]),
        [image.size for image in images],
        _object_rows(voc_objects, class_names),
        [i for i, image in enumerate(images) for _ in image.objects],
        lambda index: voc_objects[index].where,
    )


def read_xml(path: Path) -> tuple[tuple[int, int] | None, list[VocObject]]:
    """Read one annotation file.

    Returns:
        Height and width of the image, if the file has them, and the objects.

    Raises:
        UsageError: The file is not complete XML, or a value of an object is missing or not a number.
    """
    root = _parse(path)
    size = None
    if root.find("size") is not None:
        height, width = (_number(root, f"size/{side}", f"{path}: size") for side in ("height", "width"))
        size = (int(height), int(width)) if all(1 <= s < _MAX_SIDE_PX for s in (height, width)) else None
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        where = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UsageError(f"{where} has no name; add the name of its class, or remove the object.")
        where = f"{where} ({name!r})"
        left, top, right, bottom = (_number(element, f"bndbox/{side}", where) for side in _SIDES)
        difficult = element.find("difficult") is not None and _number(element, "difficult", where) != 0
        objects.append(VocObject(where, name, (left, top, right, bottom), difficult))
    return size, objects


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, which VOC does not need: a few lines of entities can expand to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type, which can hold an entity bomb")


def _parse(path: Path) -> ElementTree.Element:
    try:
        content = path.read_bytes()
        parser: Any = ElementTree.XMLParser(target=_NoDoctype())
        return ElementTree.fromstring(content, parser)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}, the annotation of a listed image; copy it again.") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise UsageError(f"{path} is not a complete XML file: {error}. Copy it again.") from None


def _number(element: ElementTree.Element, name: str, where: str) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise UsageError(
            f"{where}: {name.replace('/', ' ')} is {text!r}; a number is needed. Correct the file."
        ) from None


def _listed_images(folder: Path, image_set: str) -> Iterator[_Listed]:
    """Read the annotations of a list of images."""
    annotations = NamedFiles(folder / "Annotations", (".xml",))
    images = NamedFiles(folder / "JPEGImages", SUFFIXES)
    for name in read_names(folder / "ImageSets" / "Main" / f"{image_set}.txt", annotations):
        xml_path = next(iter(annotations.find(name)), annotations.folder / f"{name}.xml")
        path = _only(images, name, xml_path)
        size, objects = read_xml(xml_path)
        yield _Listed(path, name, size or _stored_size(path), objects)


def _only(images: NamedFiles, name: str, xml_path: Path) -> Path:
    """Return the image of a name."""
    found = images.find(name)
    if not found:
        raise UsageError(
            f"there is no image {images.folder / name}.jpg, which {xml_path} describes, nor one of another "
            f"format ({', '.join(SUFFIXES)}); copy it again."
        )
    if len(found) > 1:
        raise UsageError(
            f"{xml_path} may describe {' or '.join(path.name for path in found)}; remove one from "
            f"{images.folder}."
        )
    return found[0]


def _stored_size(path: Path) -> tuple[int, int]:
    """Read the size of an image from its header; a damaged image is found when it is decoded."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.height, image.width
    except (OSError, Image.DecompressionBombError):
        raise UsageError(f"cannot read the size of {path}, missing in its annotation; replace it.") from None


def _numbers(stems: Sequence[str]) -> Sequence[int]:
    """Convert each name to a number, 2007_000027 to 2007000027, or number the names if that fails."""
    if all(stem.replace("_", "").isdecimal() and len(stem) <= 18 for stem in stems):
        numbers = [int(stem.replace("_", "")) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return range(1, len(stems) + 1)


def _object_rows(voc_objects: Sequence[VocObject], class_names: Sequence[str]) -> list[ObjectRow]:
    """Convert coordinates that count from 1 and include the last pixel to edges that count from 0."""
    label_of = {name: label for label, name in enumerate(class_names, 1)}
    rows: list[ObjectRow] = []
    for where, name, (left, top, right, bottom), difficult in voc_objects:
        if name not in label_of:
            problem = unknown_name(kind="class", given=name, allowed=class_names)
            raise UsageError(f"{where}: {problem} Give other classes with --data.class_names.")
        area = (right - left + 1) * (bottom - top + 1)
        rows.append(((left - 1, top - 1, right, bottom), label_of[name], difficult, False, area))
    return rows
