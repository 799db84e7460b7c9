"""Download of a data set in one step: an interruption leaves existing files unchanged."""

from __future__ import annotations

import http.client
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path


def download_folder(folder: Path, fetch: Callable[[Path], object], what: str) -> None:
    """Download a data set next to its folder, and move the files there once all of them are complete.

    Args:
        folder: The folder to fill; other files in it are kept.
        fetch: Downloads and checks the data set. It gets a temporary folder and creates one with the name of
            ``folder`` in it.
        what: The data set and its source, for the error message.

    Raises:
        OSError: The download failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as temporary:
        try:
            fetch(Path(temporary))
        # torchvision raises RuntimeError for a wrong checksum; the others come from reading the archive.
        except (
            OSError,
            RuntimeError,
            EOFError,
            http.client.HTTPException,
            tarfile.TarError,
            zlib.error,
        ) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(
                f"could not download {what}: {reason}. Nothing was changed; run the command again."
            ) from error
        for file in sorted(Path(temporary, folder.name).rglob("*")):
            if file.is_file():
                target = folder.parent / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
