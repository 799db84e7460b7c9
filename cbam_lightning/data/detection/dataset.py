"""Detection data sets: images with objects, read and augmented on access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from cbam_lightning.data.batch import BadImage, SampleRequest, SplitDataset, as_index
from cbam_lightning.data.cropping import stack
from cbam_lightning.data.detection.annotations import Annotations, join_objects
from cbam_lightning.data.detection.augmentation import DetectionTransform
from cbam_lightning.data.detection.detection_batch import DetectionFileBatch, Objects
from cbam_lightning.data.image_files import read_image
from cbam_lightning.data.transformed import MAX_DEFAULT_WORKERS, drawing, usable_cores


class DetectionDataset(SplitDataset):
    """Images with objects; those that cannot be read are left out of the batch.

    Args:
        annotations: Of the images.
        transform: From an image and its objects to those that a detector gets.
    """

    def __init__(self, annotations: Annotations, transform: DetectionTransform) -> None:
        self.annotations = annotations
        self.transform = transform

    @abstractmethod
    def read(self, index: int) -> Tensor | BadImage:
        """Read the image at a position: uint8 (C, H, W), or the reason why there is none."""

    def __len__(self) -> int:
        return len(self.annotations)

    def name(self, index: int) -> str:
        """Return the path of the image, or the name of one in memory."""
        return self.annotations.name(index)

    def __getitems__(self, indices: Sequence[int | SampleRequest]) -> DetectionFileBatch:
        """Read a batch; images that fail are left out and listed in ``bad``."""
        images: list[Tensor] = []
        targets: list[Objects] = []
        sizes: list[int] = []
        kept: list[int] = []
        bad: list[BadImage] = []
        for item in indices:
            index = item.position if isinstance(item, SampleRequest) else item
            image = self._read_checked(index)
            if isinstance(image, BadImage):
                bad.append(image)
                if image.errno is not None:
                    break  # the run ends with this one
                continue
            with drawing(item):
                changed, objects = self.transform(image, self.annotations.of_image(index))
            images.append(changed)
            targets.append(objects)
            sizes += image.shape[1:]
            kept.append(index)
        place = as_index(kept)
        return DetectionFileBatch(
            _stacked(images),
            join_objects(targets),
            as_index([len(objects.labels) for objects in targets]),
            self.annotations.image_ids[place],
            as_index(sizes).reshape(-1, 2),
            place,
            tuple(bad),
        )

    def _read_checked(self, index: int) -> Tensor | BadImage:
        """Read an image, and refuse it if its boxes were drawn on another size of it."""
        image = self.read(index)
        height, width = self.annotations.sizes[index].tolist()
        if isinstance(image, BadImage) or not height or image.shape[1:] == (height, width):
            return image
        found = f"it has {image.shape[2]} x {image.shape[1]} pixels"
        return BadImage(self.name(index), f"{found}, its annotation is for {width} x {height}")


def _stacked(images: list[Tensor]) -> Tensor | list[Tensor]:
    """Put images of one size into one tensor."""
    return stack(images) if len({image.shape for image in images}) == 1 else images


class DetectionFiles(DetectionDataset):
    """Image files with objects.

    Args:
        annotations: Of the files.
        transform: From an image and its objects to those that a detector gets.
        channels: 1 for grey values, 3 for RGB.
    """

    def __init__(
        self, annotations: Annotations, transform: DetectionTransform, channels: Literal[1, 3]
    ) -> None:
        super().__init__(annotations, transform)
        self.channels: Literal[1, 3] = channels
        self.default_num_workers = min(MAX_DEFAULT_WORKERS, usable_cores())

    def read(self, index: int) -> Tensor | BadImage:
        """Decode a file."""
        found = read_image(self.name(index), self.channels)
        return found if isinstance(found, BadImage) else found[0]


class DetectionImages(DetectionDataset):
    """Images in memory with objects.

    Args:
        images: uint8 (M, C, H, W).
        annotations: Of the images.
        transform: From an image and its objects to those that a detector gets.
    """

    default_num_workers = 0

    def __init__(self, images: Tensor, annotations: Annotations, transform: DetectionTransform) -> None:
        super().__init__(annotations, transform)
        self.images = images

    def read(self, index: int) -> Tensor:
        """Return an image."""
        return self.images[index]
