"""Files that are either complete or absent."""

import errno
import os
import resource
import stat
from contextlib import contextmanager

import pytest

from cbam_lightning.files import atomic_write

OLD = b"what stood there before"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.bin"
    path.write_bytes(OLD)
    return path


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def file_size_limit(num_bytes):
    """Make every write beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def only_the_old_file_is_there(path):
    return path.read_bytes() == OLD and list(path.parent.iterdir()) == [path]


def test_the_name_holds_the_new_bytes_and_nothing_else_is_left(path):
    with atomic_write(path) as file:
        file.write(b"new ")
        file.write(b"bytes")
    assert path.read_bytes() == b"new bytes"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_complete(path):
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == OLD
    assert path.read_bytes() == b"new"


def test_missing_folders_are_made(tmp_path):
    with atomic_write(str(tmp_path / "a" / "b" / "c.bin")) as file:
        file.write(b"new")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(path, mask, mode):
    with umask(mask), atomic_write(path) as file:
        file.write(b"new")
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_umask_itself_stays(path):
    with umask(0o027):
        with atomic_write(path) as file:
            file.write(b"new")
        assert os.umask(0o027) == 0o027


@pytest.mark.parametrize("error", [RuntimeError("in the middle"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_old_file_and_no_other(path, error):
    def write_half(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)), atomic_write(path) as file:
        write_half(file)
    assert only_the_old_file_is_there(path)


def test_a_full_disk_leaves_the_old_file_and_no_other(path):
    with file_size_limit(10_000), pytest.raises(OSError, match="too large"), atomic_write(path) as file:
        file.write(bytes(100_000))
    assert only_the_old_file_is_there(path)


def test_a_disk_that_is_full_when_the_bytes_leave_the_cache(path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    assert only_the_old_file_is_there(path)


def test_the_bytes_are_on_the_disk_before_the_name_changes(path, monkeypatch):
    seen = []
    fsync = os.fsync

    def record(handle):
        seen.append((os.fstat(handle).st_size, path.read_bytes()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    with atomic_write(path) as file:
        file.write(b"12345")
    assert seen == [(5, OLD)]


def test_a_folder_under_the_name_stays(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "taken") as file:
        file.write(b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
