"""What a range of images was packed from: it decides whether an interrupted packing may keep its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FileState = list[int]


def file_state(path: str | Path) -> FileState:
    """Return what differs after a file was replaced or changed: its size, and two times in nanoseconds.

    No program can set the time of change back, as copying and unpacking do with that of modification. New
    permissions or links change it too, which costs no more than packing again.

    Raises:
        OSError: There is no such file.
    """
    found = Path(path).stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def changed_files(paths: Sequence[str], states: Sequence[FileState]) -> list[str]:
    """Return the files that are not in the given states, or gone."""
    return [path for path, state in zip(paths, states, strict=True) if _state_or_none(path) != state]


def _state_or_none(path: str) -> FileState | None:
    try:
        return file_state(path)
    except OSError:
        return None


@dataclass(frozen=True)
class RangeRecord:
    """What a range was packed from and into; written after its shards.

    Attributes:
        settings: Digest of everything that decides what is stored, apart from the content of the files.
        states: State of each file before it was read.
        skipped: [position in the range, reason] of each file that was left out.
        chunks: Entries of the shards for LitData's index.
        config: Entry of their format for LitData's index.
    """

    settings: str
    states: list[FileState]
    skipped: list[tuple[int, str]]
    chunks: list[dict[str, Any]]
    config: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> RangeRecord | None:
        """Read it; ``None`` if there is none, or it is damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def holds(self, folder: Path) -> bool:
        """Return whether the shards in a folder are still those that were written."""
        return all(_sha256(folder / chunk["filename"]) == chunk["sha256"] for chunk in self.chunks)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
