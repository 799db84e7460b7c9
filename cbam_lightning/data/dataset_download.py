"""Download of a data set in one step: an interruption leaves existing files unchanged."""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

# torchvision raises RuntimeError for a wrong checksum; others come from reading the archive.
_FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)


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
        except _FAILURES as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(
                f"could not download {what}: {reason}. Nothing was changed; run the command again."
            ) from error
        # moves each file, which is atomic, as it stays in one file system
        shutil.copytree(Path(temporary, folder.name), folder, dirs_exist_ok=True, copy_function=os.replace)
