import os
import resource

import pytest

from cbam_lightning.runs.lines import LineFile, append_whole


@pytest.fixture
def small_disk():
    """Returns a function that lets no file grow beyond a length, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda max_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes or soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_and_cut_back(tmp_path):
    path = tmp_path / "a.txt"
    file = LineFile(path)
    for line in ("one", "two", "three"):
        file.append(line)
    assert path.read_text() == "one\ntwo\nthree\n"
    with path.open("a") as rest:
        rest.write("thr")  # a process was killed here
    assert LineFile(path, keep=2).lines() == ["one", "two"]
    assert path.read_text() == "one\ntwo\n"
    LineFile(path)
    assert not path.exists()


def test_lines_that_are_missing_are_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    with pytest.warns(UserWarning, match="a.txt has 1 lines; 3 were written"):
        assert LineFile(path, keep=3).lines() == ["one"]


def test_a_full_disk_keeps_lines_waiting(tmp_path, small_disk):
    path = tmp_path / "a.txt"
    file = LineFile(path)
    file.append("x" * 50)
    small_disk(60)
    with pytest.warns(UserWarning, match=r"a\.txt cannot be written now \(File too large\)"):
        file.append("y" * 50)
    file.append("z")
    assert path.read_text() == "x" * 50 + "\n"
    assert file.lines() == ["x" * 50, "y" * 50, "z"]
    small_disk(None)
    file.append("end")
    assert path.read_text().split() == ["x" * 50, "y" * 50, "z", "end"]


def test_appending_is_all_or_nothing(tmp_path, small_disk):
    path = tmp_path / "a.bin"
    append_whole(path, b"abc")
    small_disk(5)
    with pytest.raises(OSError, match="File too large"):
        append_whole(path, b"defgh")
    assert path.read_bytes() == b"abc"


def test_a_failed_replacement_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    file = LineFile(path)
    file.append("one")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        file.replace(["two"])
    assert path.read_text() == "one\n"
