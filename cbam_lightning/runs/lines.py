"""Files to which whole lines are appended, and which can be truncated to the state of a checkpoint."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cbam_lightning.files import atomic_write


class LineFile:
    """A text file to which lines are appended; lines that a full disk refuses wait for the next attempt.

    Args:
        path: The file, which need not exist.
        keep: Number of lines to keep; later ones are removed.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self._waiting: list[str] = []
        self._warned = False
        kept = self._read()[:keep]
        if len(kept) < keep:
            warnings.warn(f"{path} has {len(kept)} lines; {keep} were written.", stacklevel=2)
        if kept:
            self.replace(kept)
        else:
            path.unlink(missing_ok=True)

    def _read(self) -> list[str]:
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return file.read().splitlines()

    def lines(self) -> list[str]:
        """Return all lines, including those that wait."""
        return self._read() + self._waiting

    def append(self, line: str) -> None:
        """Append a line; if the disk is full, warn once and keep the line for later."""
        self._waiting.append(line)
        try:
            append_whole(self.path, "".join(f"{waiting}\n" for waiting in self._waiting).encode())
            self._waiting = []
        except OSError as error:
            if not self._warned:
                warnings.warn(f"{self.path} cannot be written now ({error.strerror}).", stacklevel=2)
            self._warned = True

    def replace(self, lines: list[str]) -> None:
        """Replace the content atomically.

        Raises:
            OSError: The disk is full or the like; the file is unchanged.
        """
        with atomic_write(self.path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        self._waiting = []

    def sync(self) -> None:
        """Wait until the lines are on the disk, so that they survive a power cut."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def append_whole(path: Path, content: bytes) -> None:
    """Append all of the content to a file, or nothing.

    Raises:
        OSError: The disk is full or the like; the file is unchanged.
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
