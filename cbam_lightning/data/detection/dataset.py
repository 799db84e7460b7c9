"""Detection data sets: images with objects, read and augmented on access."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.cropping import stack
from cbam_lightning.data.detection.annotations import Annotations, join_objects
from cbam_lightning.data.detection.augmentation import DetectionTransform
from cbam_lightning.data.detection.detection_batch import DetectionFileBatch, Objects
from cbam_lightning.data.detection.orientation import decode_annotated
from cbam_lightning.data.image_digests import digest_of_arrays, digest_of_names
from cbam_lightning.data.image_files import read_image
from cbam_lightning.data.sample_requests import Requests
from cbam_lightning.data.split_dataset import SplitDataset, as_index, load_each


@dataclass(eq=False)
class DetectionDataset(SplitDataset):
    """Images with objects; unreadable images are left out of the batch.

    Args:
        annotations: Annotations of the images.
        transform: From an image and its objects to those for the detector.
    """

    annotations: Annotations
    transform: DetectionTransform

    @abstractmethod
    def read(self, index: int) -> Tensor | BadImage:
        """Read the image at a position: uint8 (C, H, W), or the reason why it cannot be read."""

    def __len__(self) -> int:
        return len(self.annotations)

    def name(self, index: int) -> str:
        """Return the path of the image, or the name of one in memory."""
        return self.annotations.name(index)

    def digest(self) -> str:
        """Return a digest of the names, which are read at once."""
        return digest_of_names(self.annotations.names)

    def __getitems__(self, requests: Requests) -> DetectionFileBatch:
        """Read a batch; images that fail are left out and listed in ``bad``."""
        positions, samples, bad = load_each(requests, self._load, runs_user_code=False)
        index = as_index(positions)
        images = [image for image, _, _ in samples]
        targets = [objects for _, objects, _ in samples]
        return DetectionFileBatch(
            stack(images, images[0].shape) if len({image.shape for image in images}) == 1 else images,
            join_objects(targets),
            as_index([len(objects.labels) for objects in targets]),
            self.annotations.image_ids[index],
            as_index([side for _, _, size in samples for side in size]).reshape(-1, 2),
            index,
            bad,
        )

    def _load(self, index: int) -> tuple[Tensor, Objects, tuple[int, ...]] | BadImage:
        """Read and transform an image: the image, its objects, and the height and width that it had."""
        image = self.read(index)
        if isinstance(image, BadImage):
            return image
        return *self.transform(image, self.annotations.of_image(index)), tuple(image.shape[1:])


@dataclass(eq=False)
class DetectionFiles(DetectionDataset):
    """Image files with objects.

    Args:
        annotations: Annotations of the files.
        transform: From an image and its objects to those for the detector.
        channels: 1 for greyscale, 3 for RGB.
    """

    channels: Literal[1, 3]

    def read(self, index: int) -> Tensor | BadImage:
        """Decode a file, the way up that its boxes were drawn on."""
        height, width = self.annotations.sizes[index].tolist()
        decode = partial(decode_annotated, size=(height, width))
        return read_image(self.name(index), self.channels, decode)


@dataclass(eq=False)
class DetectionImages(DetectionDataset):
    """Images in memory with objects.

    Args:
        annotations: Annotations of the images.
        transform: From an image and its objects to those for the detector.
        images: uint8 (M, C, H, W).
    """

    default_num_workers = 0
    images: Tensor

    def read(self, index: int) -> Tensor:
        """Return an image."""
        return self.images[index]

    def digest(self) -> str:
        """Return a digest of the ids, and of some of the images."""
        return digest_of_arrays(self.name(0), self.annotations.image_ids, images=self.images)
