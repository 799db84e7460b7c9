"""Files that grow by whole lines, and can be cut back to what a checkpoint knows of."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cbam_lightning.files import atomic_write


class LineFile:
    """A text file to which lines are appended; what a full disk refuses waits for the next attempt.

    Args:
        path: The file, which need not exist.
        keep: Lines at its beginning that stay; whatever follows is cut off.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._warned = False
        found = self._read()[:keep]
        if len(found) < keep:
            warnings.warn(f"{path} has {len(found)} lines, where {keep} were written.", stacklevel=2)
        if found:
            self.replace(found)
        else:
            path.unlink(missing_ok=True)

    def _read(self) -> list[str]:
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return file.read().splitlines()

    def lines(self) -> list[str]:
        """Return all lines, those that wait included."""
        return self._read() + self._waiting

    def append(self, line: str) -> None:
        """Add a line; if the disk is full, say so once and keep the line for later."""
        self._waiting.append(line)
        try:
            append_whole(self.path, "".join(f"{waiting}\n" for waiting in self._waiting).encode())
            self._waiting = []
        except OSError as error:
            if not self._warned:
                warnings.warn(f"{self.path} cannot be written now ({error.strerror}).", stacklevel=2)
            self._warned = True

    def replace(self, lines: list[str]) -> None:
        """Replace the content, at once.

        Raises:
            OSError: The disk is full and the like; the file is unchanged.
        """
        with atomic_write(self.path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        self._waiting = []

    def sync(self) -> None:
        """Wait until the lines are on the disk, so that even a power cut leaves them."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def append_whole(path: Path, content: bytes) -> None:
    """Append to a file all of the content or nothing.

    Raises:
        OSError: The disk is full and the like; the file is unchanged.
    """
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise
