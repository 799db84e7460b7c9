"""An environment as a user has it: the wheel is installed, and this repository is far away."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "files"
PACKED = ("cbam_lightning", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The folder of the programs of an environment that sees only the wheel and its dependencies."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared
    folder = shared / "environment"
    with FileLock(shared / "environment.lock"):  # the first of several test processes makes it
        if not (folder / "made").exists():
            make_environment(folder, shared / "source")
    return folder / "bin"


def make_environment(folder, source):
    source.mkdir()
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist"]
    subprocess.run([*pip, "wheel", source, *options], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (wheel,) = (source / "dist").iterdir()
    python = folder / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    # a folder in a .pth file is searched, and the .pth files in it, such as ours, are not read
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = [python, "-c", "import cbam_lightning; print(cbam_lightning.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder).stdout
    assert Path(found.strip()).is_relative_to(folder)
    (folder / "made").touch()


class Project:
    """A folder with nothing but a user's own files, and the console command."""

    def __init__(self, folder, programs):
        self.folder, self.programs = folder, programs

    def run(self, *words, code=0, **environment):
        """Type a command, and return what it prints."""
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        path = f"{self.programs}{os.pathsep}{clean['PATH']}"
        done = subprocess.run(
            " ".join(words),
            shell=True,
            cwd=self.folder,
            env=clean | {"PATH": path} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path, environment):
    folder = tmp_path / "project"
    shutil.copytree(FILES, folder)
    return Project(folder, environment)
