"""Downloading a data set so that an interruption leaves earlier files as they were."""

from __future__ import annotations

import http.client
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path


def download_folder(folder: Path, fetch: Callable[[Path], object], what: str) -> None:
    """Download a data set beside its folder, and move its files there only once all are complete.

    Args:
        folder: The folder to fill; files of other names in it stay.
        fetch: Downloads and checks the data set, given a folder in which it makes one named as ``folder``.
        what: The data set and where it comes from, for the message.

    Raises:
        OSError: The download failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        try:
            fetch(Path(temporary))
        # torchvision reports a wrong checksum as a RuntimeError; the others come from reading the archive.
        except (
            OSError,
            RuntimeError,
            EOFError,
            http.client.HTTPException,
            tarfile.TarError,
            zlib.error,
        ) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            message = f"could not download {what}: {reason}. Nothing was changed; run the command again."
            raise OSError(message) from error
        for file in sorted(Path(temporary, folder.name).rglob("*")):
            if file.is_file():
                target = folder.parent / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
