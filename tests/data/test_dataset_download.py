import tarfile
import urllib.error

import pytest

from cbam_lightning.data.dataset_download import download_folder


def tree(root):
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def fetch(folder):
    (folder / "set" / "raw").mkdir(parents=True)
    (folder / "set" / "raw" / "a").write_text("new")
    (folder / "set" / "b").write_text("new")
    (folder / "set.tar.gz").write_text("archive")


def test_moves_the_files_into_place_and_nothing_else(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b").write_text("old")
    (tmp_path / "set" / "notes").write_text("mine")
    download_folder(tmp_path / "set", fetch, "a set")
    assert tree(tmp_path) == {"set/raw/a": "new", "set/b": "new", "set/notes": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("File not found or corrupted."), "File not found or corrupted"),
        (urllib.error.URLError("no route\nto host"), "<urlopen error no route to host>"),
        (OSError(28, "No space left on device"), r"\[Errno 28\] No space left on device"),
        (tarfile.ReadError("unexpected end of data"), "unexpected end of data"),
        (EOFError(), "EOFError"),
    ],
)
def test_a_failure_is_one_line_and_changes_nothing(tmp_path, failure, reason):
    def fail(folder):
        fetch(folder)
        raise failure

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b").write_text("old")
    expected = f"^could not download a set: {reason}. Nothing was changed; run the command again.$"
    with pytest.raises(OSError, match=expected):
        download_folder(tmp_path / "set", fail, "a set")
    assert tree(tmp_path) == {"set/b": "old"}


def test_ctrl_c_changes_nothing(tmp_path):
    def interrupt(folder):
        fetch(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download_folder(tmp_path / "set", interrupt, "a set")
    assert list(tmp_path.iterdir()) == []
