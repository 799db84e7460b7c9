"""The files of a packed set by name, from a folder or from an object store."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from filelock import FileLock

from cbam_lightning.data.packed.fetching import fetch_file, fetch_range
from cbam_lightning.errors import UsageError

CACHE_VARIABLE = "LITDATA_CACHE_DIR"  # LitData's own
DEFAULT_CACHE_DIR = "~/.lightning/chunks"  # LitData's own


class Store(ABC):
    """A folder, wherever it is.

    Attributes:
        is_remote: Whether files have to be fetched before they can be read.
    """

    is_remote: bool

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the path of a file that can be read here, after fetching it if need be.

        Raises:
            OSError: It could not be fetched.
        """

    @abstractmethod
    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a part of a file, without fetching the whole of it where the store can do that.

        Raises:
            OSError: It could not be read.
        """

    @abstractmethod
    def where(self, name: str) -> str:
        """Return the path or the URL of a file, for messages."""


class FolderStore(Store):
    """A folder of this machine.

    Args:
        folder: The folder.
    """

    is_remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the path of a file, which need not exist."""
        return self.folder / name

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a part of a file."""
        with self.path(name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.folder / name)


class ObjectStore(Store):
    """A folder of an object store, read by LitData, and the folder here that keeps what was fetched.

    Args:
        url: Of the folder; ``s3://``, ``gs://``, ``azure://`` and whatever else LitData knows.
        cache_dir: The folder here; files already in it are not fetched again.
    """

    is_remote = True

    def __init__(self, url: str, cache_dir: Path) -> None:
        self.url = url.rstrip("/")
        self.cache_dir = cache_dir

    def has(self, name: str) -> bool:
        """Tell whether a file was fetched already."""
        return (self.cache_dir / name).exists()

    def path(self, name: str) -> Path:
        """Fetch a file unless it is there; of several processes that want it, one does."""
        target = self.cache_dir / name
        if not target.exists():
            with self._alone(target):
                if not target.exists():
                    fetch_file(self.where(name), target)
        return target

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a part of a file; some of LitData's stores fetch the whole of it for that."""
        target = self.cache_dir / name
        with self._alone(target):
            if not target.exists():
                return fetch_range(self.where(name), start, end, target)
        return FolderStore(self.cache_dir).read(name, start, end)

    def _alone(self, target: Path) -> FileLock:
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(target.with_name(f".{target.name}.wanted"))

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}".rstrip("/")

    def check_room(self, sizes: dict[str, int]) -> None:
        """Refuse to start what the disk of the cache has no room for.

        Args:
            sizes: Length in bytes of every file that will be needed, by name.

        Raises:
            UsageError: Those that are still to be fetched need more than is free.
        """
        missing = sum(size for name, size in sizes.items() if not self.has(name))
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache_dir).free
        if missing > free:
            message = (
                f"{self.url} needs {missing / 1e9:.1f} GB more in {self.cache_dir}, which has "
                f"{free / 1e9:.1f} GB free; set {CACHE_VARIABLE} to a folder on a larger disk."
            )
            raise UsageError(message)


def is_url(root: str) -> bool:
    """Tell whether this names a place in an object store; ``local:`` is LitData's for a slow mounted disk."""
    return "://" in root or root.startswith("local:")


def cache_root() -> Path:
    """Return the folder of all that is fetched, in that of ``LITDATA_CACHE_DIR`` or LitData's default."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR).expanduser() / "cbam_lightning"
