"""A run directory written by version 0.1, before its classes moved, resumes and evaluates.

``former_run`` was stopped by SIGTERM after batch 6 of the second of three epochs; ``uninterrupted.csv`` is
what the same training logged when nothing stopped it.
"""

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from cbam_lightning import Classifier
from cbam_lightning.callbacks.throughput import RATE
from tests.command import call

FORMER = Path(__file__).parent / "former_run"


@pytest.fixture
def run():
    return Path(shutil.copytree(FORMER, "runs/ex/interrupted"))


def rows(path):
    return list(csv.DictReader(path.open()))


def test_it_resumes_where_it_was(run):
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"][0]["class_path"] == (
        "cbam_lightning.tasks.EMA"
    )
    assert call("resume", run) == 0
    found, expected = rows(run / "metrics.csv"), rows(run / "uninterrupted.csv")
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() - {RATE} == other.keys()
        for name in other:
            assert (one[name] == "") == (other[name] == ""), name
            if one[name]:  # libraries of another version or processor may round differently
                assert float(one[name]) == pytest.approx(float(other[name]), rel=0.02, abs=0.02), name


def test_its_best_checkpoint_evaluates(run):
    best = run / "checkpoints" / "best.ckpt"
    words = f"test --config {run / 'config.yaml'} --ckpt_path {best} --run.name again"
    assert call(words) == 0
    assert Classifier.load_from_checkpoint(best).num_classes == 10
