"""Access to the files of a packed set by name, in a folder or in an object store."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from filelock import FileLock

from cbam_lightning.data.packed.fetching import fetch_file, fetch_range
from cbam_lightning.errors import UsageError

CACHE_VARIABLE = "LITDATA_CACHE_DIR"  # as in LitData
DEFAULT_CACHE_DIR = "~/.lightning/chunks"  # as in LitData


class Store(ABC):
    """A folder, local or remote.

    Attributes:
        is_remote: Whether files must be fetched before they can be read.
    """

    is_remote: bool

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the local path of a file, after fetching it if necessary.

        Raises:
            OSError: The file could not be fetched.
        """

    @abstractmethod
    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a range of bytes of a file, without fetching all of it if the store supports that.

        Raises:
            OSError: The file could not be read.
        """

    @abstractmethod
    def where(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""


class FolderStore(Store):
    """A folder on this machine.

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
        """Read a range of bytes of a file."""
        with self.path(name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.folder / name)


class ObjectStore(Store):
    """A folder in an object store, read by LitData, with a local cache.

    Args:
        url: URL of the folder: ``s3://``, ``gs://``, ``azure://`` and others that LitData supports.
        cache_dir: Local folder for fetched files; files in it are not fetched again.
    """

    is_remote = True

    def __init__(self, url: str, cache_dir: Path) -> None:
        self.url = url.rstrip("/")
        self.cache_dir = cache_dir

    def has(self, name: str) -> bool:
        """Return whether a file is in the cache."""
        return (self.cache_dir / name).exists()

    def path(self, name: str) -> Path:
        """Fetch a file unless it is cached; only one of several processes fetches it."""
        target = self.cache_dir / name
        if not target.exists():
            with self._locked(target):
                if not target.exists():
                    fetch_file(self.where(name), target)
        return target

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a range of bytes of a file; for some stores, LitData fetches all of it."""
        target = self.cache_dir / name
        with self._locked(target):
            if not target.exists():
                return fetch_range(self.where(name), start, end, target)
        return FolderStore(self.cache_dir).read(name, start, end)

    def _locked(self, target: Path) -> FileLock:
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(target.with_name(f".{target.name}.wanted"))

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}".rstrip("/")

    def check_room(self, sizes: dict[str, int]) -> None:
        """Check that the files fit on the disk of the cache.

        Args:
            sizes: Length in bytes of every file that will be needed, by name.

        Raises:
            UsageError: The files that are not cached yet need more space than is free.
        """
        missing = sum(size for name, size in sizes.items() if not self.has(name))
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache_dir).free
        if missing > free:
            raise UsageError(
                f"{self.url} needs {missing / 1e9:.1f} GB more in {self.cache_dir}, which has "
                f"{free / 1e9:.1f} GB free; set {CACHE_VARIABLE} to a folder on a larger disk."
            )


def is_url(root: str) -> bool:
    """Return whether this is a URL of an object store; LitData's ``local:`` is for slow mounted disks."""
    return "://" in root or root.startswith("local:")


def cache_root() -> Path:
    """Return the cache folder, below ``LITDATA_CACHE_DIR`` or LitData's default."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR).expanduser() / "cbam_lightning"
