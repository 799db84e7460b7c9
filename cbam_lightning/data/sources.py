"""Where labelled images come from: what a folder of files and a packed set have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from cbam_lightning.data.batch import ImageDataset
from cbam_lightning.data.cropping import Transform


class LabelledImages(ABC):
    """Images with their classes, not read yet.

    Attributes:
        labels: int64 (M,), the class of each image.
    """

    labels: Tensor

    @abstractmethod
    def select(self, positions: Tensor) -> LabelledImages:
        """Return the images at some positions, int64 (K,)."""

    @abstractmethod
    def dataset(self, transform: Transform, channels: Literal[1, 3], size_px: int) -> ImageDataset:
        """Make the data set that reads them.

        Args:
            transform: From uint8 (C, H, W) of any size to uint8 (C, size_px, size_px).
            channels: C, 1 for grey values or 3 for RGB.
            size_px: Height and width after the transform.
        """


class ImageSource(ABC):
    """Images sorted by class, in parts.

    A part is named by its folder: "train", "val" or "test", or "" if the class folders have none above them.

    Attributes:
        name: Of the folder that holds the images, or held them before they were packed.
        parts: Those of "train", "val" and "test" that there are.
        shorter_side_px: What the images were shrunk to at most; ``None`` if they were not.
    """

    name: str
    parts: tuple[str, ...]
    shorter_side_px: int | None = None

    @abstractmethod
    def classes(self, part: str) -> tuple[str, ...]:
        """Return the names of the classes in a part, sorted; none if there is no such part."""

    @abstractmethod
    def images(self, part: str, class_names: tuple[str, ...]) -> LabelledImages:
        """List the images of a part, sorted by class and name; a label is a position in ``class_names``.

        Raises:
            UsageError: A class is empty, or the part is not whole.
        """

    @abstractmethod
    def where(self, part: str) -> str:
        """Return the path or the URL of a part, for messages."""
