"""The whole promise, with real processes: killed again and again, a run ends as if nothing had happened."""

from pathlib import Path

import pytest

from tests.callbacks.resume.interrupting import differences
from tests.callbacks.resume.killing import TRAINING, rows, survive
from tests.processes import start, wait
from tests.runs.recordings import points, read_back


def kill(kills, seed, num_workers):
    """Train ``whole`` without a break and ``killed`` with breaks; returns the rows that the latter got to."""
    words = [*TRAINING.split(), "--data.num_workers", str(num_workers), "--run.name"]
    whole = wait(start([*words, "whole"], "whole.log"))
    last_row = rows(Path("runs/default/whole"))
    got_to, killed = survive("killed", [*words, "killed"], kills, seed, last_row)
    logs = [path.read_text()[-3000:] for path in Path().glob("*.log")]
    assert (whole, killed) == (0, 0), logs
    return got_to


def check(kills, num_workers, monkeypatch):
    # the service of W&B that this process has would keep a killed run's id for itself
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
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


def test_five_kills_leave_no_trace(monkeypatch):
    check(5, 2, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [10, 30])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_many_kills_leave_no_trace(kills, num_workers, monkeypatch):
    check(kills, num_workers, monkeypatch)
