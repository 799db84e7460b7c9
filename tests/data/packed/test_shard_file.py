import hashlib
import os
import time

import pytest
import torch

from cbam_lightning.data.packed import shard_file
from cbam_lightning.data.packed.shard_file import ShardFile
from cbam_lightning.data.packed.shards import DamagedShardError, ShardInfo
from cbam_lightning.data.packed.stores import FolderStore
from tests.processes import fork, wait

CONTENT = bytes(range(256)) * 40
INFO = ShardInfo("a", 1, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def unchecked():
    return torch.zeros((), dtype=torch.int64).share_memory_()


def opened(folder, checked=None):
    return ShardFile(FolderStore(folder), "a", INFO, unchecked() if checked is None else checked)


def values(file, start, end):
    return bytes(file.read(start, end).numpy())


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "a").chmod(0o444)
    return tmp_path / "a"


@pytest.fixture
def hashed(monkeypatch):
    """Returns how often a file was hashed so far."""
    calls = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        shard_file.hashlib, "file_digest", lambda *args: (calls.append(args), digest(*args))[1]
    )
    return lambda: len(calls)


def test_a_file_is_checked_once_for_all_who_share_the_mark(path, hashed):
    checked = unchecked()
    files = [opened(path.parent, checked) for _ in range(3)]
    assert {values(file, 300, 304) for file in files} == {CONTENT[300:304]}
    assert hashed() == 1
    opened(path.parent)
    assert hashed() == 2


@pytest.mark.parametrize("cut", [0, 1, 5000])
def test_a_file_that_is_cut_while_it_is_open_is_told(path, cut):
    file = opened(path.parent)
    os.truncate(path, cut)
    with pytest.raises(DamagedShardError, match=f"it has {cut} bytes; its index says {len(CONTENT)}"):
        file.read(9000, 9100)


@pytest.mark.parametrize("position", [0, 5000, len(CONTENT) - 1])
def test_another_byte_is_told_before_and_after_opening(path, position):
    file = opened(path.parent)
    damaged = CONTENT[:position] + b"\xfe" + CONTENT[position + 1 :]
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(damaged)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as copying does
    for read in (lambda: file.read(100, 200), lambda: opened(path.parent)):
        with pytest.raises(DamagedShardError, match="its content has another SHA-256 than its index says"):
            read()


def test_the_same_content_may_be_touched_and_replaced(path, hashed):
    checked = unchecked()
    file = opened(path.parent, checked)
    path.touch()
    assert values(file, 5, 9) == CONTENT[5:9]
    other = path.with_name("b")
    other.write_bytes(CONTENT)
    other.replace(path)
    assert values(file, 9, 12) == values(opened(path.parent, checked), 9, 12) == CONTENT[9:12]
    assert hashed() == 3


def test_a_file_that_is_replaced_by_another_is_told(path):
    file = opened(path.parent)
    other = path.with_name("b")
    other.write_bytes(CONTENT[::-1])
    other.replace(path)
    with pytest.raises(DamagedShardError, match="another SHA-256"):
        file.read(0, 10)


def test_a_file_that_is_deleted_is_told(path):
    file = opened(path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.read(0, 10)


def open_and_count(folder, checked, counts, number):
    digest = hashlib.file_digest

    def slow(*args):
        counts[number] += 1
        time.sleep(0.1)
        return digest(*args)

    shard_file.hashlib.file_digest = slow  # in this process only
    assert values(opened(folder, checked), 7, 9) == CONTENT[7:9]


def test_of_several_processes_one_checks(path):
    checked, counts = unchecked(), torch.zeros(3, dtype=torch.int64).share_memory_()
    processes = [fork(open_and_count, path.parent, checked, counts, number) for number in range(3)]
    assert [wait(process) for process in processes] == [0, 0, 0]
    assert int(counts.sum()) == 1
