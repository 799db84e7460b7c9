"""The kernels in Triton's interpreter: runs each file of ``interpreted/`` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FOLDER = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
ROOT = FOLDER.parents[3].parent


def run(file, marker):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marker]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [*command, FOLDER / file], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    no_such_tests = done.returncode == 5 and marker == "slow"
    assert done.returncode == 0 or no_such_tests, done.stdout[-20000:] + done.stderr[-5000:]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", FILES)
def test_interpreted(file):
    run(file, "not slow")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", FILES)
def test_interpreted_slowly(file):
    run(file, "slow")
