"""Access to the files of a packed set by name, in a folder or in an object store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from cbam_lightning.data.packed.fetching import fetch_file, fetch_range
from cbam_lightning.errors import UsageError

CACHE_VARIABLE = "LITDATA_CACHE_DIR"  # as in LitData
DEFAULT_CACHE_DIR = "~/.lightning/chunks"  # as in LitData


class FolderStore:
    """A folder on this machine.

    Args:
        folder: The folder.

    Attributes:
        is_remote: Whether files must be fetched before they can be read.
    """

    is_remote: bool = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the local path of a file, which need not exist."""
        return self.folder / name

    def holds(self, name: str) -> bool:
        """Return whether a file need not be fetched; it may be missing."""
        return True

    def advice(self, name: str) -> str:
        """Return what to do about a damaged file."""
        return "copy it again, or pack again"

    def where(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""
        return str(self.folder / name)

    def check(self, sizes: dict[str, int]) -> None:
        """Check the files before they are read.

        Args:
            sizes: Length in bytes of every file that will be needed, by name.

        Raises:
            UsageError: A file is missing or truncated, or there is no room to fetch it.
        """
        for name, size in sizes.items():
            path = self.path(name)
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                raise UsageError(f"{path} has {found} bytes instead of {size}; {self.advice(name)}.")


class ObjectStore(FolderStore):
    """A folder in an object store, read by LitData, with a local cache.

    Args:
        url: URL of the folder: ``s3://``, ``gs://``, ``azure://`` and others that LitData supports.
        cache_dir: Local folder for fetched files; files in it are not fetched again.
    """

    is_remote = True

    def __init__(self, url: str, cache_dir: Path) -> None:
        super().__init__(cache_dir)
        self.url = url.rstrip("/")

    def path(self, name: str) -> Path:
        """Return the local path of a file after fetching it, unless it is cached.

        Only one of several processes fetches it.

        Raises:
            OSError: The file could not be fetched.
        """
        target = self.folder / name
        if not target.exists():
            with self._locked(target):
                if not target.exists():
                    fetch_file(self.where(name), target)
        return target

    def holds(self, name: str) -> bool:
        """Return whether a file is cached."""
        return (self.folder / name).exists()

    def read(self, name: str, start: int, end: int) -> bytes:
        """Read a range of bytes of a file; for some stores, LitData fetches all of it.

        Raises:
            OSError: The file could not be read.
        """
        target = self.folder / name
        with self._locked(target):
            return fetch_range(self.where(name), start, end, target)

    def advice(self, name: str) -> str:
        """Return what to do about a damaged file, which is a copy of that in the store."""
        return f"delete its copy {self.folder / name} to fetch it again, or pack again"

    def _locked(self, target: Path) -> FileLock:
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(target.with_name(f".{target.name}.wanted"))

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}".rstrip("/")

    def check(self, sizes: dict[str, int]) -> None:
        """Check that the files that are not cached yet fit on the disk of the cache."""
        missing = sum(size for name, size in sizes.items() if not (self.folder / name).exists())
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise UsageError(
                f"{self.url} needs {missing / 1e9:.1f} GB more in {self.folder}, which has "
                f"{free / 1e9:.1f} GB free; set {CACHE_VARIABLE} to a folder on a larger disk."
            )


def is_url(root: str) -> bool:
    """Return whether this is a URL of an object store; LitData's ``local:`` is for slow mounted disks."""
    return "://" in root or root.startswith("local:")


def cache_root() -> Path:
    """Return the cache folder, below ``LITDATA_CACHE_DIR`` or LitData's default."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR).expanduser() / "cbam_lightning"
