"""COCO 2017 (https://cocodataset.org): 80 classes of photographed objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbam_lightning.data.detection.annotations import Annotations
from cbam_lightning.data.detection.coco_files import CocoFile, read_coco
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.errors import UsageError


class CocoDetection(DetectionDataModule):
    """COCO, trained on train2017 and tested on val2017, as in papers; or other data in this format.

    Unpack the images and annotations_trainval2017.zip, from https://cocodataset.org/#download, into one
    folder, which then holds::

        train2017/000000000009.jpg    annotations/instances_train2017.json
        val2017/000000000139.jpg      annotations/instances_val2017.json

    The classes are those of the JSON files. Their ids (in COCO 1 to 90, with gaps) become the labels 1..K in
    ascending order; ``category_ids[label - 1]`` is the id of a label. Annotations with a true "ignore" count
    as difficult. An image with an EXIF rotation is rotated where the annotation's width and height are those
    of the rotated image, and is read as stored where they are those of the stored one, or where both are the
    same. So boxes and pixels, and the boxes that ``predict`` writes, have the coordinates of the annotation.

    Args:
        root: Folder that holds train2017, val2017 and annotations.
        val_fraction: Fraction of train2017 held out for validation, by which checkpoints are chosen. With 0,
            validation uses val2017, as testing does.
        **kwargs: Options of ``DetectionDataModule``.

    Attributes:
        categories: Names of the classes by their ids in the files.
    """

    dataset_name = "coco2017"

    def __init__(self, root: str = "datasets/coco", *, val_fraction: float = 0.02, **kwargs: Any) -> None:
        super().__init__(val_fraction=val_fraction, **kwargs)
        self.root = root
        self.categories = self._file(train=False).categories
        self.category_ids = tuple(self.categories)
        self.class_names = tuple(self.categories.values())
        self.num_classes = len(self.categories)

    def load_part(self, train: bool) -> Annotations:
        """Read the annotations of train2017 or val2017."""
        file = self._file(train)
        if file.categories != self.categories:
            raise UsageError(f"the categories of {file.path} differ from those of val2017; copy both again.")
        folder = Path(self.root, "train2017" if train else "val2017")
        return read_coco(file, folder)

    def _file(self, train: bool) -> CocoFile:
        name = "train2017" if train else "val2017"
        path = Path(self.root, "annotations", f"instances_{name}.json")
        if not path.is_file():
            raise UsageError(
                f"there is no {path}; unpack annotations_trainval2017.zip and the images from "
                "https://cocodataset.org/#download, and give their folder with --data.root."
            )
        return CocoFile(path)
