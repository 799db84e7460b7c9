"""A shard on this machine, whose content is checked against its hash before it is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import cast

import torch
from torch import Tensor

from cbam_lightning.data.packed.shards import DamagedShardError, ShardInfo
from cbam_lightning.data.packed.stores import FolderStore

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]


class ShardFile:
    """The bytes of a shard: only those that its index has the hash of.

    The file is not mapped into memory: a mapped file that is cut kills the process that reads it (SIGBUS).

    Args:
        store: Its store.
        name: Its name in the store.
        info: Its entry in the index.
        checked: int64 (), when the file was last changed before its content was checked; 0: it was not. In
            shared memory, it lets one process check for all.

    Raises:
        DamagedShardError: Its length or its content is not that of the index.
        OSError: It cannot be read.
    """

    _file: FileIO | None = None

    def __init__(self, store: FolderStore, name: str, info: ShardInfo, checked: Tensor) -> None:
        self._store, self._name, self._info, self._checked = store, name, info, checked
        self._changed_ns = self._open()

    def read(self, start: int, end: int) -> Tensor:
        """Return the bytes between two positions, uint8 (end - start,).

        Raises:
            DamagedShardError: The file was changed after it was opened.
            OSError: It cannot be read.
        """
        content = torch.empty(end - start, dtype=torch.uint8)
        for _ in range(2):
            file = cast(FileIO, self._file)  # open since the last check
            count = _read_into(file, content.numpy().data, start)
            if count == len(content) and os.fstat(file.fileno()).st_ctime_ns == self._changed_ns:
                return content
            self._changed_ns = self._open()  # moved, touched, cut, or written again: does it hold the same?
        raise DamagedShardError("it is being changed while it is read")

    def _open(self) -> int:
        """Open the file and check it; return when it was last changed."""
        self._close()
        self._file = FileIO(self._store.path(self._name))
        with _locked(self._file):  # of several processes that want to check it, one does
            found, expected = os.fstat(self._file.fileno()), self._info
            if found.st_size != expected.num_bytes:
                raise DamagedShardError(f"it has {found.st_size} bytes; its index says {expected.num_bytes}")
            # the time of change, not that of modification: no program can set it back
            if int(self._checked) != found.st_ctime_ns:
                if hashlib.file_digest(self._file, "sha256").hexdigest() != expected.sha256:
                    raise DamagedShardError("its content has another SHA-256 than its index says")
                self._checked.fill_(found.st_ctime_ns)
        return found.st_ctime_ns

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    __del__ = _close


def _read_into(file: FileIO, content: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):  # worker processes share the position of a file that they inherit
        return os.preadv(file.fileno(), [content], start)
    file.seek(start)
    return file.readinto(content) or 0


@contextmanager
def _locked(file: FileIO) -> Iterator[None]:
    """Lock a file for other processes, if it can be: not on some network disks (OSError), nor on Windows."""
    with suppress(OSError, AttributeError):
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError, AttributeError):
            fcntl.flock(file, fcntl.LOCK_UN)
