"""Image files: finding them, and the data set that decodes and crops them in the worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from cbam_lightning.data.batch import BadImage, FileBatch, ImageDataset, as_index
from cbam_lightning.data.decoding import SUFFIXES, UndecodableError, decode_image
from cbam_lightning.errors import UsageError

# Left behind by the file managers of Windows; those of other systems start with a dot.
IGNORED_NAMES = ("desktop.ini", "thumbs.db")
MAX_DEFAULT_WORKERS = 8

Transform = Callable[[Tensor], Tensor]


class FileDataset(ImageDataset):
    """Image files, decoded and transformed on access.

    Args:
        paths: The files.
        labels: int64 (M,), the class of each file.
        transform: From uint8 (C, H, W) of any size to uint8 (C, size_px, size_px).
        channels: C, 1 for grey values or 3 for RGB.
        size_px: Height and width after the transform.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Tensor,
        transform: Transform,
        channels: Literal[1, 3],
        size_px: int,
    ) -> None:
        # One array instead of a million strings: reading a string changes its reference count, and so copies
        # its memory page into every worker process.
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.labels = labels
        self.transform = transform
        self.channels: Literal[1, 3] = channels
        self.size_px = size_px
        self.default_num_workers = min(MAX_DEFAULT_WORKERS, usable_cores())

    def __getitems__(self, indices: list[int]) -> FileBatch:
        """Decode a batch; files that fail are left out and listed in ``bad``."""
        images: list[Tensor] = []
        kept: list[int] = []
        bad: list[BadImage] = []
        for index in indices:
            image = self._read(self.name(index))
            if isinstance(image, BadImage):
                bad.append(image)
            else:
                images.append(image)
                kept.append(index)
        kept_index = as_index(kept)
        empty = torch.empty((0, self.channels, self.size_px, self.size_px), dtype=torch.uint8)
        stacked = torch.stack(images) if images else empty
        return FileBatch(stacked, self.labels[kept_index], kept_index, tuple(bad))

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.fsdecode(bytes(self._paths[index]))

    def _read(self, path: str) -> Tensor | BadImage:
        if not path.lower().endswith(SUFFIXES):
            return BadImage(path, f"its name is not that of an image ({', '.join(SUFFIXES)})")
        try:
            image = decode_image(Path(path).read_bytes(), self.channels)
        except UndecodableError as error:
            return BadImage(path, str(error))
        except OSError as error:
            return BadImage(path, error.strerror or str(error), error.errno)
        return self.transform(image)


def train_transform(size_px: int, crop_scale: tuple[float, float], hflip: bool) -> Transform:
    """Cut a random part, resize it to the input size, and mirror it with probability 1/2.

    The aspect ratio of the part is drawn from [3/4, 4/3], as in https://arxiv.org/abs/1409.4842.

    Args:
        size_px: Height and width of the result.
        crop_scale: Smallest and largest part of the image's area to cut.
        hflip: Whether to mirror.

    Returns:
        A function from uint8 (C, H, W) to uint8 (C, size_px, size_px).
    """
    crop = v2.RandomResizedCrop(size_px, scale=crop_scale, antialias=True)
    transform: Transform = v2.Compose([crop, v2.RandomHorizontalFlip()]) if hflip else crop
    return transform


def eval_transform(size_px: int, resize_px: int) -> Transform:
    """Resize the shorter side, then cut the centre.

    Args:
        size_px: Height and width of the result.
        resize_px: Length of the shorter side before the cut.

    Returns:
        A function from uint8 (C, H, W) to uint8 (C, size_px, size_px).
    """
    transform: Transform = v2.Compose([v2.Resize(resize_px, antialias=True), v2.CenterCrop(size_px)])
    return transform


def visible_entries(folder: str | Path) -> list[Path]:
    """List a folder by name, without hidden files and those that file managers leave behind."""
    entries = sorted(Path(folder).iterdir(), key=lambda entry: entry.name)
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in IGNORED_NAMES]


def find_files(folder: str | Path) -> list[str]:
    """List the visible files in a folder and in the folders below it, sorted by path."""
    files: list[str] = []
    for entry in visible_entries(folder):
        files += find_files(entry) if entry.is_dir() else [str(entry)]
    return files


def find_predict_files(path: Path) -> list[str]:
    """List an image file, or the files in a folder and below.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    if not path.exists():
        message = (
            f"predict_path {path} does not exist; give an image file or a folder with --data.predict_path."
        )
        raise UsageError(message)
    paths = find_files(path) if path.is_dir() else [str(path)]
    if not paths:
        message = f"predict_path {path} is an empty folder; give an image file or a folder of image files."
        raise UsageError(message)
    return paths


def usable_cores() -> int:
    """Count the processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
