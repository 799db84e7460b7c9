"""Write files completely or not at all, and never over existing ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cbam_lightning.errors import UsageError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only once it is complete and on disk.

    The bytes go to a temporary file in the same folder, so the final rename stays within one file system and
    is atomic (POSIX ``rename``). If anything fails, an existing file of that name stays as it was.

    Args:
        path: The file to write. Missing parent folders are created.

    Yields:
        A binary file open for writing.

    Raises:
        OSError: The disk is full, the folder is not writable, or the like.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files; give the result the permissions of any other new file
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_unwritten(*paths: Path) -> None:
    """Raise a ``UsageError`` if one of the paths exists."""
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} already exists and is not overwritten; give another folder, or move it away."
            )
