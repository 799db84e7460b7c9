"""Images with objects to look at: some of a split or a folder, as evaluation sees them, with names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from torch import Tensor

from cbam_lightning.data.detection.annotations import without_objects
from cbam_lightning.data.detection.augmentation import Augmented
from cbam_lightning.data.detection.dataset import DetectionDataset, DetectionFiles
from cbam_lightning.data.image_files import find_predict_files
from cbam_lightning.data.viewing import read_batches


class NamedScene(NamedTuple):
    """An image and what is there.

    Attributes:
        name: By which a person finds it again.
        image: uint8 (C, H, W).
        objects: The fields of ``Objects`` by name.
    """

    name: str
    image: Tensor
    objects: dict[str, Tensor]


@dataclass(frozen=True)
class ScenesToView:
    """Some images of a data set.

    Attributes:
        dataset: Not augmented.
        positions: In the data set.
    """

    dataset: DetectionDataset
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int) -> Iterator[list[NamedScene]]:
        """Read them, so many at a time.

        Raises:
            UsageError: A file is no image.
            OSError: A file cannot be read.
        """
        for read in read_batches(self.dataset, self.positions, size):
            batch = read.batch
            rows = zip(batch.indices.tolist(), batch.images, batch.targets, strict=True)
            yield [NamedScene(self.dataset.name(index), image, objects) for index, image, objects in rows]


def scene_files(path: str | Path, channels: int) -> DetectionFiles:
    """List an image file, or those in a folder and below, as large as they are.

    Args:
        path: File or folder.
        channels: 1 or 3.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    annotations = without_objects(find_predict_files(Path(path)))
    unchanged = Augmented("none", None, [0.0] * channels)
    return DetectionFiles(annotations, unchanged, cast(Literal[1, 3], channels))
