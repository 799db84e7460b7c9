"""Studies that run: real trainings, cut off, repeated and shared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cbam_lightning.studies import read_study
from cbam_lightning.studies.compare.run_sources import find_runs
from tests.callbacks.resume.interrupting import repeatable
from tests.command import call

SETTINGS = {
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 3,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 2,
    "trainer.enable_progress_bar": False,
    "wandb.enabled": False,
}


@pytest.fixture
def study(tmp_path):
    """Write a study of these arms."""

    def write(arms, seeds=(0,), **settings):
        base = {"model": {"class_path": "Classifier"}, "data": "FashionMNIST"}
        base["model"]["init_args"] = {"network": "resnet8"}
        Path("base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
        values = {"config": "base.yaml", "threads": 1, "seeds": list(seeds), "arms": arms}
        content = values | {"settings": {**SETTINGS, **settings}}
        Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    return write


def results():
    return {path.parent.parent.name: path for path in Path("runs/study").rglob("results.json")}


def test_what_is_left_is_run_and_what_is_finished_stays(study, capsys):
    study({"none": {}, "cbam": {"model.attention": "cbam"}})
    assert call("study study.yaml --slice 2/2") == 0
    assert list(results()) == ["cbam"]
    before = results()["cbam"].stat().st_mtime_ns
    capsys.readouterr()
    assert call("study study.yaml") == 0
    out = capsys.readouterr().out
    assert "1 of 2 runs are finished." in out
    found = json.loads(results()["none"].read_text())
    assert found["checkpoint"] == "checkpoints/best.ckpt"
    top1 = found["metrics"]["test/top1"]
    assert f"none, seed 0: test/top1 {top1:.4f}; 0 to go" in out
    assert results()["cbam"].stat().st_mtime_ns == before
    assert "test/top1" in (results()["none"].parent / "output.txt").read_text()
    assert call("study study.yaml --list") == 0
    assert capsys.readouterr().out.count("finished  cbam-lightning fit --config base.yaml") == 2
    runs, _ = find_runs(["runs/study"])
    assert {run.network["attention"] for run in runs} == {"none", "cbam"}


def test_a_run_that_fails_ends_the_study_with_its_reason(study, capsys):
    study({"typo": {"model.attention": "cbma"}, "none": {}})
    assert call("study study.yaml") == 2
    captured = capsys.readouterr()
    assert "typo, seed 0: cbam-lightning: error:" in captured.err
    assert "Did you mean 'cbam'" in captured.err
    assert not Path("runs/study/none").exists()
    assert call("study study.yaml --list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["failed", "open"]


def test_a_loss_that_is_no_number_is_a_result(study, capsys):
    study({"wild": {"model.optimizer": "SGD", "model.optimizer.lr": 1e30}})
    assert call("study study.yaml") == 3
    captured = capsys.readouterr()
    assert "wild, seed 0: diverged" in captured.out
    assert "the loss became NaN or Inf in 1 of 1 runs: wild, seed 0" in captured.err
    output = Path("runs/study/wild/seed_0/output.txt").read_text()
    assert call("study study.yaml") == 3  # and not once more
    assert Path("runs/study/wild/seed_0/output.txt").read_text() == output
    assert "1 of 1 runs are finished. 1 of them diverged." in capsys.readouterr().out
    assert call("study study.yaml --list") == 0
    assert capsys.readouterr().out.startswith("diverged  cbam-lightning fit ")
    assert call("compare study.yaml") == 2
    assert "wild/seed_0: its loss became NaN or Inf." in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_that_is_cut_off_goes_on_and_ends_as_if_it_had_not_been(study):
    study({"none": {}, "cbam": {"model.attention": "cbam"}}, **{"trainer.max_epochs": 12})
    assert call("study study.yaml --jobs 2") == 0
    expected = {path: repeatable(path.parent) for path in Path("runs").rglob("metrics.csv")}
    assert len(expected) == 2
    Path("runs").rename("unbroken")
    command = [sys.executable, "-m", "cbam_lightning", "study", "study.yaml", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(path.read_text().count("\n") > 10 for path in Path("runs").rglob("metrics.csv")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "SIGINT: the runs are saved; repeat the command to resume them." in errors
    assert not results()
    assert {run.state for run in read_study("study.yaml").runs} == {"stopped"}
    assert call("study study.yaml --jobs 2") == 0
    assert {path: repeatable(path.parent) for path in Path("runs").rglob("metrics.csv")} == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("study.yaml --slice 3/2", "there is no part 3 of 2"),
        ("study.yaml --slice half", "such as 1/8"),
        ("study.yaml --jobs 0", "--jobs is 0"),
        ("nothing.yaml", "nothing.yaml does not exist"),
    ],
)
def test_a_mistake_is_one_line(study, options, words, capsys):
    study({"none": {}})
    assert call(f"study {options}") == 2
    assert words in capsys.readouterr().err
