"""Writing scenes to files, in the formats of Pascal VOC and COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from cbam_lightning.checks import check_choice
from cbam_lightning.data.detection.annotations import Annotations
from cbam_lightning.data.detection.detection_batch import Objects
from cbam_lightning.data.detection.fashion_scenes import FashionScenes
from cbam_lightning.errors import UsageError

JPEG_QUALITY = 95


def write_scenes(
    root: str | Path, layout: Literal["voc", "coco"], num_images: int = 1000, seed: int = 0, **options: Any
) -> Path:
    """Write scenes of ``FashionScenes`` as JPEG files with annotations.

    Args:
        root: New or empty folder; ``CocoDetection(root)`` or
            ``VOCDetection(root, years=(2007,), class_names=FashionScenes.class_names)`` reads it.
        layout: "voc" for trainval and test of VOC2007, "coco" for train2017 and val2017.
        num_images: Number of training scenes.
        seed: Seed of the scenes.
        **options: Other options of ``FashionScenes``.

    Returns:
        ``root``.

    Raises:
        UsageError: The folder is not empty, or the layout is unknown.
    """
    layouts = {"voc": _write_voc, "coco": _write_coco}
    check_choice("layout", layout, layouts)
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} is not an empty folder; give a new one.")
    layouts[layout](root, FashionScenes(num_images=num_images, scene_seed=seed, **options))
    return root


def _write_voc(root: Path, scenes: FashionScenes) -> None:
    folder = root / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    for path in (folder / "Annotations", folder / "JPEGImages", lists):
        path.mkdir(parents=True)
    first = 1
    for train, image_set in ((True, "trainval"), (False, "test")):
        annotations = scenes.load_part(train)
        images = scenes.images_of(annotations)
        stems = [f"{number:06d}" for number in range(first, first + len(images))]
        first += len(images)
        for i, stem in enumerate(stems):
            _save(images[i], folder / "JPEGImages" / f"{stem}.jpg")
            tree = _voc_xml(stem, images[i], annotations.of_image(i), scenes.class_names)
            tree.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
        (lists / f"{image_set}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def _voc_xml(stem: str, image: Tensor, objects: Objects, names: Sequence[str]) -> ElementTree.ElementTree:
    """Build the XML of a scene (C, H, W); VOC counts pixels from 1 and includes the last ones."""
    channels, height, width = image.shape
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2007", filename=f"{stem}.jpg")
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=channels)
    _add(root, segmented=0)
    for box, label, difficult in zip(objects.boxes, objects.labels, objects.difficult, strict=True):
        left, top, right, bottom = (int(side) for side in box)
        element = ElementTree.SubElement(root, "object")
        _add(element, name=names[label - 1], pose="Unspecified", truncated=0, difficult=int(difficult))
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        _add(ElementTree.SubElement(element, "bndbox"), **corners)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(element: ElementTree.Element, **texts: str | int) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(element, name).text = str(text)


def _write_coco(root: Path, scenes: FashionScenes) -> None:
    (root / "annotations").mkdir(parents=True)
    for train, name in ((True, "train2017"), (False, "val2017")):
        annotations = scenes.load_part(train)
        (root / name).mkdir()
        for i, image in zip(annotations.image_ids.tolist(), scenes.images_of(annotations), strict=True):
            _save(image, root / name / f"{i:012d}.jpg")
        content = _coco_json(annotations, scenes)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def _coco_json(annotations: Annotations, scenes: FashionScenes) -> dict[str, Any]:
    """Build the JSON of a part; "ignore" corresponds to VOC's "difficult"."""
    images: list[dict[str, Any]] = []
    coco_objects: list[dict[str, Any]] = []
    sizes = annotations.sizes.tolist()
    for i, (image_id, (height, width)) in enumerate(zip(annotations.image_ids.tolist(), sizes, strict=True)):
        file_name = f"{image_id:012d}.jpg"
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        rows = zip(*(values.tolist() for values in annotations.of_image(i)), strict=True)
        for (left, top, right, bottom), label, ignore, _, area in rows:
            box = [left, top, right - left, bottom - top]
            category = scenes.category_ids[label - 1]
            place = {"id": len(coco_objects) + 1, "image_id": image_id, "category_id": category}
            coco_objects.append(place | {"bbox": box, "area": area, "iscrowd": 0, "ignore": int(ignore)})
    named = zip(scenes.category_ids, scenes.class_names, strict=True)
    categories = [{"id": number, "name": name, "supercategory": "clothes"} for number, name in named]
    return {"images": images, "annotations": coco_objects, "categories": categories}


def _save(image: Tensor, path: Path) -> None:
    """Write uint8 (C, H, W) as JPEG without chroma subsampling."""
    to_pil_image(image).save(path, quality=JPEG_QUALITY, subsampling=0)
