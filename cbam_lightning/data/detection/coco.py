"""COCO 2017 (https://cocodataset.org): 80 classes of things on photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cbam_lightning.data.detection.annotations import Annotations
from cbam_lightning.data.detection.augmentation import Augmentation
from cbam_lightning.data.detection.coco_files import CocoFile, read_coco
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.errors import UsageError


class CocoDetection(DetectionDataModule):
    """COCO, trained on train2017 and tested on val2017, whose AP papers report; or other data in this format.

    The images and annotations_trainval2017.zip, from https://cocodataset.org/#download, are unpacked into one
    folder, which then holds::

        train2017/000000000009.jpg    annotations/instances_train2017.json
        val2017/000000000139.jpg      annotations/instances_val2017.json

    The classes are those of the JSON files. Their numbers there, of COCO 1 to 90 with gaps, become the labels
    1..K in ascending order; ``category_ids[label - 1]`` leads back. Annotations with a true "ignore" count as
    difficult.

    Args:
        root: Folder that holds train2017, val2017 and annotations.
        size_px: Height and width that all images are resized to, whatever their aspect ratio; null leaves
            them as they are, for a detector that resizes them itself.
        in_channels: 3 to read images as RGB, 1 as grey values.
        augmentation: What training changes at random: "ssd" for colours, zooming out, cutting and mirroring,
            "flip" for mirroring only, "none" for nothing.
        keep_negatives: Whether to train on images without any object to learn, too.
        val_fraction: Part of train2017 held out for validation, by which checkpoints are chosen. With 0 none
            is, and validation shows val2017, as the test does.
        **kwargs: Options of ``DetectionDataModule``.

    Attributes:
        categories: The names of the classes by their numbers in the files.
    """

    dataset_name = "coco2017"

    def __init__(
        self,
        root: str = "datasets/coco",
        size_px: int | None = None,
        in_channels: Literal[1, 3] = 3,
        augmentation: Augmentation = "flip",
        keep_negatives: bool = False,
        val_fraction: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            size_px=size_px,
            in_channels=in_channels,
            augmentation=augmentation,
            keep_negatives=keep_negatives,
            val_fraction=val_fraction,
            **kwargs,
        )
        self.root = root
        self.categories = self._file(train=False).categories
        self.category_ids = tuple(self.categories)
        self.class_names = tuple(self.categories.values())
        self.num_classes = len(self.categories)

    def load_part(self, train: bool) -> Annotations:
        """Read the annotations of train2017 or of val2017."""
        file = self._file(train)
        if file.categories != self.categories:
            message = f"the categories of {file.path} differ from those of val2017; copy both files again."
            raise UsageError(message)
        folder = Path(self.root, "train2017" if train else "val2017")
        return read_coco(file, folder, self.box_log)

    def _file(self, train: bool) -> CocoFile:
        name = "train2017" if train else "val2017"
        path = Path(self.root, "annotations", f"instances_{name}.json")
        if not path.is_file():
            message = (
                f"there is no {path}; unpack annotations_trainval2017.zip and the images from "
                "https://cocodataset.org/#download, and give their folder with --data.root."
            )
            raise UsageError(message)
        return CocoFile(path)
