"""Pascal VOC 2007 and 2012 (http://host.robots.ox.ac.uk/pascal/VOC/): 20 classes of photographed objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbam_lightning.checks import require
from cbam_lightning.data.detection.annotations import Annotations
from cbam_lightning.data.detection.augmentation import Augmentation
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.data.detection.voc_files import read_voc
from cbam_lightning.errors import UsageError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
YEARS = (2007, 2012)
TEST_YEAR = 2007  # the annotations of later test images are not public


class VOCDetection(DetectionDataModule):
    """Pascal VOC, trained on the trainval images of one or both years and tested on the test images of 2007.

    Unpack the official archives VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and
    VOCtrainval_11-May-2012.tar, from http://host.robots.ox.ac.uk/pascal/VOC/, into one folder, which then
    holds::

        VOCdevkit/VOC2007/Annotations/000005.xml       VOCdevkit/VOC2012/Annotations/2007_000027.xml
        VOCdevkit/VOC2007/JPEGImages/000005.jpg        VOCdevkit/VOC2012/JPEGImages/2007_000027.jpg
        VOCdevkit/VOC2007/ImageSets/Main/trainval.txt  VOCdevkit/VOC2012/ImageSets/Main/trainval.txt
        VOCdevkit/VOC2007/ImageSets/Main/test.txt

    In data of one's own, names may contain spaces, and images may be of any format that ``ImageFolder``
    reads. An image with an EXIF rotation is read as in ``CocoDetection``, and as stored if its annotation has
    no size.

    Coordinates in the files count pixels from 1 and include the last one. Here they count from 0, and right
    and bottom are the ends of the last pixels, so that widths and heights are those of VOC's own evaluation.

    Args:
        root: Folder that holds VOCdevkit.
        years: 2007, 2012 or both (the "07+12" of papers).
        class_names: Names of the classes in the order of the labels, for other data in this format. Default:
            the 20 of VOC.
        size_px: Height and width to which all images are resized, regardless of their aspect ratio; null
            keeps the sizes, for a detector that resizes images itself.
        augmentation: Random augmentation in training: "ssd" for colour distortion, zooming out, cropping and
            mirroring, "flip" for mirroring only, "none" for nothing.
        **kwargs: Options of ``DetectionDataModule``.
    """

    def __init__(
        self,
        root: str = "datasets",
        years: tuple[int, ...] = YEARS,
        class_names: tuple[str, ...] = VOC_CLASSES,
        *,
        size_px: int | None = 300,
        augmentation: Augmentation = "ssd",
        **kwargs: Any,
    ) -> None:
        super().__init__(size_px=size_px, augmentation=augmentation, **kwargs)
        known = sorted(years) in ([2007], [2012], [2007, 2012])
        require(known, "years", list(years), "[2007], [2012] or [2007, 2012]")
        distinct = bool(class_names) and len(set(class_names)) == len(class_names)
        require(distinct, "class_names", list(class_names), "one or more names, each once")
        self.root = root
        self.years = tuple(sorted(years))
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.category_ids = tuple(range(1, self.num_classes + 1))
        self.dataset_name = "voc" + "+".join(f"{year % 100:02d}" for year in self.years)

    def load_part(self, train: bool) -> Annotations:
        """Read the annotations of trainval, or those of the test images of 2007."""
        image_set = "trainval" if train else "test"
        folders = [self._folder(year) for year in (self.years if train else (TEST_YEAR,))]
        return read_voc(folders, image_set, self.class_names)

    def _folder(self, year: int) -> Path:
        folder = Path(self.root, "VOCdevkit", f"VOC{year}")
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is not a folder; unpack the archives of Pascal VOC {year} from "
                "http://host.robots.ox.ac.uk/pascal/VOC/, and give the folder of VOCdevkit with --data.root."
            )
        return folder
