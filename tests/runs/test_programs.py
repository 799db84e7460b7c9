import os
import sys
from pathlib import Path

from cbam_lightning.runs.programs import program


def test_a_program_is_called_by_name_only_where_the_shell_finds_ours(tmp_path, monkeypatch):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "tool").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(ours / "python"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(ours), str(other)]))
    assert program("tool") == "tool"
    monkeypatch.setenv("PATH", str(other))
    assert Path(program("tool")).resolve() == ours / "tool"
    assert program("unknown") == "unknown"
