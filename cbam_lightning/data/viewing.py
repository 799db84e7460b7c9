"""Images to look at: some of a split or a folder, as evaluation sees them, with names and classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from cbam_lightning.checks import require
from cbam_lightning.data.bad_images import BadImageLog
from cbam_lightning.data.batch import BadImage, ImageDataset, SplitDataset
from cbam_lightning.data.class_folders import EVAL_RESIZE_RATIO
from cbam_lightning.data.cropping import EvalTransform, Transform
from cbam_lightning.data.image_files import FileDataset, find_predict_files, read_image
from cbam_lightning.errors import UsageError

# Networks for images of at most this side are evaluated on whole images, as the data modules of such are.
_WHOLE_UP_TO_PX = 64


class NamedImage(NamedTuple):
    """An image.

    Attributes:
        name: By which a person finds it again.
        image: uint8 (C, H, W).
        label: Its class, or -1 where it is unknown.
    """

    name: str
    image: Tensor
    label: int


@dataclass(frozen=True)
class ImagesToView:
    """Some images of a data set, spread evenly over it.

    Attributes:
        dataset: Not augmented.
        positions: In the data set.
    """

    dataset: ImageDataset
    positions: Sequence[int]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int) -> Iterator[list[NamedImage]]:
        """Read them, so many at a time.

        Raises:
            UsageError: A file is no image.
            OSError: A file cannot be read.
        """
        for batch in read_batches(self.dataset, self.positions, size):
            rows = zip(batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True)
            yield [NamedImage(self.dataset.name(index), image, label) for index, image, label in rows]


def read_batches(dataset: SplitDataset, positions: Sequence[int], size: int) -> Iterator[Any]:
    """Read some images of a data set, so many at a time.

    Raises:
        UsageError: A file is no image.
        OSError: A file cannot be read.
    """
    problems = BadImageLog("raise")
    for start in range(0, len(positions), size):
        batch = dataset.__getitems__(positions[start : start + size])
        for bad in getattr(batch, "bad", ()):
            problems.add(bad)
        yield batch


def spread(dataset: ImageDataset, limit: int | None = None) -> ImagesToView:
    """Choose images of a data set in equal distances, so that every class folder has its part.

    Args:
        dataset: The images.
        limit: How many at most; left out, all.

    Raises:
        UsageError: A limit below 1.
    """
    return ImagesToView(dataset, evenly(len(dataset), limit))


def evenly(length: int, limit: int | None) -> list[int]:
    """Return positions in equal distances, at most ``limit`` of them, of so many.

    Raises:
        UsageError: A limit below 1.
    """
    require(limit is None or limit >= 1, "limit", limit, "1 or more")
    count = length if limit is None else min(limit, length)
    return [i * length // count for i in range(count)]


def image_files(
    path: str | Path, size_px: int, channels: int, class_names: Sequence[str] = ()
) -> FileDataset:
    """List an image file, or those in a folder and below, cut as for evaluation.

    Args:
        path: File or folder.
        size_px: Height and width of the result. The shorter side is resized to 256/224 of it before the cut,
            for sizes up to 64 to the size itself.
        channels: 1 or 3.
        class_names: Where the folder holds folders of these names, and no others with images, the images in
            them are of these classes.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    paths = find_predict_files(Path(path))
    labels = torch.tensor(_labels(Path(path), paths, class_names), dtype=torch.int64)
    transform = evaluation_transform(size_px)
    return FileDataset(paths, labels, transform, cast(Literal[1, 3], channels), size_px)


def evaluation_transform(size_px: int) -> Transform:
    """Return what evaluation does to images for networks of this size."""
    return EvalTransform(
        size_px, size_px if size_px <= _WHOLE_UP_TO_PX else round(size_px * EVAL_RESIZE_RATIO)
    )


def read_mask(folder: str | Path, name: str, size_px: int) -> Tensor | None:
    """Read the mask of an image, cut as the image is.

    Args:
        folder: Holds ``<name of the image without ending>.png``, in which everything but black is inside.
        name: Of the image, a path.
        size_px: As for ``image_files``.

    Returns:
        bool (size_px, size_px), or ``None`` if there is no such file.

    Raises:
        UsageError: The file is no image.
    """
    path = Path(folder, f"{Path(name).stem}.png")
    if not path.is_file():
        return None
    found = read_image(str(path), 1)
    if isinstance(found, BadImage):
        message = f"the mask {path} is no image: {found.reason}."
        raise UsageError(message)
    inside = (found[0] > 0).to(torch.uint8) * 255
    return evaluation_transform(size_px)(inside)[0] > 127


def _labels(root: Path, paths: Sequence[str], class_names: Sequence[str]) -> list[int]:
    known = {name: label for label, name in enumerate(class_names)}
    if not root.is_dir():
        return [-1] * len(paths)
    folders = [Path(path).relative_to(root).parts[0] for path in paths]
    if not set(folders) <= known.keys():
        return [-1] * len(paths)
    return [known[folder] for folder in folders]
