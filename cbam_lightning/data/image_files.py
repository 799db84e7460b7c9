"""Image files: finding them, reading them, and a data set of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.image_decoding import SUFFIXES, UndecodableError, check_header, decode_image
from cbam_lightning.data.image_digests import digest_of_names
from cbam_lightning.data.split_dataset import Preparation, TransformedDataset
from cbam_lightning.errors import UsageError

# Left behind by the file managers of Windows; those of other systems start with a dot.
IGNORED_NAMES = ("desktop.ini", "thumbs.db")


class FileDataset(TransformedDataset):
    """Image files, decoded and transformed on access.

    Args:
        paths: The files.
        labels: int64 (M,), the class of each file.
        preparation: How the images are prepared.
    """

    def __init__(self, paths: Sequence[str], labels: Tensor, preparation: Preparation) -> None:
        super().__init__(labels, preparation)
        self._paths = as_bytes(paths)

    def read(self, index: int) -> Tensor | BadImage:
        """Decode a file: uint8 (C, H, W)."""
        return read_image(self.name(index), self.channels)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.fsdecode(bytes(self._paths[index]))

    def digest(self) -> str:
        """Return a digest of the names, which are read at once."""
        return digest_of_names(self._paths)

    def no_images(self) -> Iterator[BadImage]:
        """Return the files whose names are not those of images."""
        return filter(None, (_no_image(self.name(index)) for index in range(len(self))))

    def damaged(self) -> Iterator[BadImage]:
        """Return the files that do not begin as images do, as empty ones; of each, the header is read."""
        return filter(None, (_damaged(self.name(index)) for index in range(len(self))))


def _no_image(path: str) -> BadImage | None:
    if path.lower().endswith(SUFFIXES):
        return None
    return BadImage(path, f"its name is not that of an image ({', '.join(SUFFIXES)})")


def _damaged(path: str) -> BadImage | None:
    try:
        check_header(path)
    except UndecodableError as error:
        return BadImage(path, str(error))
    except OSError as error:
        return BadImage(path, error.strerror or str(error), error.errno)
    return None


def read_image(
    path: str, channels: Literal[1, 3], decode: Callable[[bytes, Literal[1, 3]], Tensor] = decode_image
) -> Tensor | BadImage:
    """Read and decode an image file.

    Args:
        path: The file; its suffix must be that of an image.
        channels: C, 1 for greyscale or 3 for RGB.
        decode: Decodes the content of the file, or raises ``UndecodableError``.

    Returns:
        uint8 (C, H, W), or the reason why the file is not readable as an image.
    """
    if bad := _no_image(path):
        return bad
    try:
        return decode(Path(path).read_bytes(), channels)
    except UndecodableError as error:
        return BadImage(path, str(error))
    except OSError as error:
        return BadImage(path, error.strerror or str(error), error.errno)


def as_bytes(names: Sequence[str]) -> NDArray[np.bytes_]:
    """Store names in one array instead of a million strings.

    Reading a string changes its reference count, which copies its memory page into every worker process.

    Args:
        names: Paths, or parts of them; ``os.fsdecode`` converts them back.
    """
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def visible_entries(folder: str | Path) -> list[Path]:
    """List a folder by name, without hidden files and those left behind by file managers."""
    entries = sorted(Path(folder).iterdir(), key=lambda entry: entry.name)
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in IGNORED_NAMES]


def find_files(folder: str | Path, above: tuple[str, ...] = ()) -> list[str]:
    """List the visible files in a folder and its subfolders, sorted by path.

    Args:
        folder: The folder to search. Links are followed, except back to a folder that contains the link.
        above: Real paths of the folders that contain this one.
    """
    real = os.path.realpath(folder)
    if real in above:
        return []
    files: list[str] = []
    for entry in visible_entries(folder):
        files += find_files(entry, (*above, real)) if entry.is_dir() else [str(entry)]
    return files


def find_image_files(path: str | Path, option: str = "--data.predict_path") -> list[str]:
    """List an image file, or the files in a folder and its subfolders.

    Args:
        path: The file or folder.
        option: The option that names it, for error messages.

    Raises:
        UsageError: There is no such file or folder, or the folder is empty.
    """
    path = Path(path)
    paths = find_files(path) if path.is_dir() else [str(path)]
    if not paths or not path.exists():
        problem = "does not exist" if paths else "is an empty folder"
        raise UsageError(f"{option} {path} {problem}; give an image file or a folder of them.")
    return paths
