"""The whole promise, with real processes: killed again and again, a run ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.callbacks.resume.interrupting import differences
from tests.runs.recordings import points, read_back

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def kill(kills, seed, num_workers):
    words = [sys.executable, "-m", "tests.callbacks.resume.survivors", str(kills), str(seed)]
    words += ["--data.num_workers", str(num_workers)]
    # the service of W&B that this process has would keep a killed run's id for itself
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(words, env=environment | ENVIRONMENT, capture_output=True, text=True, check=False)
    logs = [path.read_text()[-3000:] for path in Path().glob("*.log")]
    assert done.returncode == 0, (done.stderr, logs)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["whole"], result["killed"]) == (0, 0), logs
    return result["got_to"]


def check(kills, num_workers):
    got_to = kill(kills, seed=num_workers, num_workers=num_workers)
    moments = [row for row in got_to if row is not None]
    assert len(moments) >= 0.8 * kills  # the others came after the end
    assert len(set(moments)) > kills / 5
    whole, killed = Path("runs/default/whole"), Path("runs/default/killed")
    assert differences(whole, killed) == []
    # which leaves out what no two runs have in common; a deterministic run does not log it at all
    assert (whole / "metrics.csv").read_bytes() == (killed / "metrics.csv").read_bytes()
    _, expected = read_back(whole)
    _, found = read_back(killed)
    assert points(found) == points(expected)
    assert len(points(found)) > 4 * 12 * 2


def test_five_kills_leave_no_trace():
    check(5, num_workers=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [10, 30])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_many_kills_leave_no_trace(kills, num_workers):
    check(kills, num_workers)
