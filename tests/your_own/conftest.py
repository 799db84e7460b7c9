"""An environment like a user's: the wheel is installed, and this repository is out of reach."""

import json
import os
import shlex
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
    """Return the ``bin`` folder of an environment with only the wheel and its dependencies."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared
    folder = shared / "environment"
    with FileLock(shared / "environment.lock"):  # the first of several test processes creates it
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
    # Python searches a folder named in a .pth file, but ignores .pth files in it, such as ours
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = [python, "-c", "import cbam_lightning; print(cbam_lightning.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder).stdout
    assert Path(found.strip()).is_relative_to(folder)
    (folder / "made").touch()


class Project:
    """A folder with only a user's own files, and the console command.

    Args:
        folder: With the user's files.
        programs: Folder of the console command.
        server: Runs the command in a fork of a process that has already imported torch.
    """

    def __init__(self, folder, programs, server):
        self.folder, self.programs, self.server = folder, programs, server

    def type(self, line, code=0, **environment):
        """Run a line in a shell, and return its output."""
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return checked(line, done.returncode, code, done.stdout)

    def run(self, line, code=0, **environment):
        """Run one of our commands as ``type`` does, but many seconds faster."""
        command, *words = shlex.split(line)
        output = self.folder / ".output"
        asked = {
            "argv": [str(self.programs / command), *words],
            "folder": str(self.folder),
            "environment": self._environment(environment),
            "output": str(output),
        }
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        found = int(self.server.stdout.readline())
        return checked(line, found, code, output.read_text())

    def _environment(self, more):
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        return clean | {"PATH": f"{self.programs}{os.pathsep}{clean['PATH']}"} | more


def checked(line, found, expected, told):
    assert found == expected, f"{line}\n{told[-4000:]}"
    assert "Traceback" not in told
    return told


@pytest.fixture(scope="session")
def server(environment):
    command = [environment / "python", Path(__file__).with_name("forking.py")]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=clean, **pipes) as process:
        yield process
        process.kill()  # closing the pipe might not end it: workers that the tests forked hold its other end


@pytest.fixture
def project(tmp_path, environment, server):
    folder = tmp_path / "project"
    shutil.copytree(FILES, folder)
    return Project(folder, environment, server)
