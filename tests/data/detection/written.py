"""Small hand-written data sets in the formats of Pascal VOC and COCO, with any errors in them."""

import json

from tests.data.generate import patches, save_image

HEIGHT, WIDTH = 40, 60
OBJECT = "<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"


def voc_object(name="cat", box=(11, 6, 30, 25), difficult=0):
    return OBJECT.format(name=name, difficult=difficult, box=BOX.format(*box))


def write_voc(root, *images, year=2007, image_set="trainval", size=SIZE):
    """Write images of 60 x 40 pixels, each given as the XML of its objects; return the folder of the year."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    first = len(list((folder / "JPEGImages").iterdir()))
    stems = [f"{'' if year == 2007 else f'{year}_'}{first + i:06d}" for i in range(len(images))]
    for stem, objects, pixels in zip(stems, images, patches(len(images), HEIGHT, WIDTH), strict=True):
        save_image(pixels, folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return folder


def annotation(number=1, image=5, category=3, bbox=(10, 5, 20, 20), **others):
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(bbox)} | others


def write_coco(
    root,
    annotations,
    images=(5, 9),
    categories=((90, "toothbrush"), (3, "cat"), (17, "dog")),
    replaced=None,
):
    """Write both parts, of the same images of 60 x 40 pixels and the same annotations."""
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in images],
        "annotations": list(annotations),
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (root / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017"):
        (root / name).mkdir()
        for image, pixels in zip(images, patches(len(images), HEIGHT, WIDTH), strict=True):
            save_image(pixels, root / name / f"{image:012d}.jpg")
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content | (replaced or {})))
    return root
