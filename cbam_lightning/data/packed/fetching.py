"""Fetching files from object stores with LitData's downloaders."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from cbam_lightning.errors import UsageError


def fetch_file(url: str, target: Path) -> None:
    """Fetch a file; ``target`` appears only when it is complete.

    Args:
        url: URL of the file.
        target: Path in an existing folder; only one process at a time may fetch to it.

    Raises:
        UsageError: LitData, or a package that it needs for this kind of store, is not installed.
        OSError: The file could not be fetched.
    """
    downloader = _downloader(url.rpartition("/")[0], os.getpid())
    unfinished = target.with_name(f".{target.name}.unfinished")
    with _reported(url):
        base = litdata_module("streaming.downloader").Downloader
        if type(downloader).download_fileobj is base.download_fileobj:
            downloader.download_file(url, str(unfinished))  # the only way for LitData's `local:` and `hf:`
        else:
            # For S3, download_file would use obstore, which refuses stores without TLS, such as those inside
            # a cluster, and starts threads that worker processes cannot inherit.
            with unfinished.open("wb") as file:
                downloader.download_fileobj(url, file)
        unfinished.replace(target)


def fetch_range(url: str, start: int, end: int, scratch: Path) -> bytes:
    """Read a range of bytes of a file.

    Args:
        url: URL of the file.
        start: Position of the first byte.
        end: Position after the last byte.
        scratch: Path for the whole file if LitData cannot read ranges from this kind of store.

    Raises:
        UsageError: LitData, or a package that it needs for this kind of store, is not installed.
        OSError: The file could not be fetched.
    """
    downloader = _downloader(url.rpartition("/")[0], os.getpid())
    with _reported(url):
        return bytes(downloader.download_bytes(url, start, end - start, str(scratch)))


def fetch_bytes(url: str) -> bytes:
    """Return the content of a small file, without caching it.

    Raises:
        UsageError: LitData, or a package that it needs for this kind of store, is not installed.
        OSError: The file could not be fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, url.rpartition("/")[2])
        fetch_file(url, target)
        return target.read_bytes()


def litdata_module(name: str) -> Any:
    """Import a module of LitData.

    Raises:
        UsageError: LitData is not installed.
    """
    try:
        import litdata
    except ModuleNotFoundError as error:
        raise UsageError(
            "packing images and reading them from a URL need LitData: pip install 'cbam_lightning[litdata]'"
        ) from error
    return import_module(f"{litdata.__name__}.{name}")


@lru_cache
def _downloader(folder: str, process: int) -> Any:
    """Create LitData's downloader, one per process, because connections cannot be shared."""
    with _reported(folder):
        return litdata_module("streaming.downloader").get_downloader(folder, tempfile.gettempdir(), [])


@contextmanager
def _reported(url: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except ModuleNotFoundError as error:  # a package that LitData needs for some stores
        raise UsageError(f"{url} cannot be read: {_first_line(error)}") from error
    except Exception as error:  # the errors of boto3, google.cloud, azure, … have no common base
        raise OSError(
            f"could not fetch {url}: {_first_line(error)}. Check the address, the keys and the connection."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
