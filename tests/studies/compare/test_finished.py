"""What a comparison reads of a run."""

import json

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare import finished
from cbam_lightning.studies.compare.run_sources import find_runs
from tests.studies.compare.synthetic import settings, write_run


def test_settings_metrics_and_network_are_read_and_filing_is_left_out(tmp_path):
    write_run(tmp_path / "a", "cbam", 3, 0.875, attention_options={"reduction": 8})
    ((found,), left_out) = find_runs([str(tmp_path / "a")])
    assert (found.seed, found.metrics, left_out) == (3, {"test/top1": 0.875, "test/loss": 0.3}, [])
    assert found.settings == {
        "model": "cbam_lightning.Classifier",
        "model.network": "resnet8",
        "model.attention": "cbam",
        "model.attention_options.reduction": 8,
        "data": "cbam_lightning.data.FashionMNIST",
        "data.batch_size": 64,
        "trainer.max_epochs": 3,
    }
    assert found.network["attention"] == "cbam"


def test_unfinished_diverged_and_untested_runs_are_left_out_and_told(tmp_path):
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b") / "results.json").unlink()
    (write_run(tmp_path / "c") / "results.json").rename(tmp_path / "c" / "divergence.json")
    results = write_run(tmp_path / "d") / "results.json"
    results.write_text(json.dumps({"metrics": {"val/top1": 0.5}}))
    runs, left_out = find_runs([str(tmp_path)])
    assert len(runs) == 1
    assert [line.rpartition("/")[2] for line in left_out] == [
        "b: it is not finished",
        "c: its loss became NaN or Inf",
        "d: it was not tested",
    ]


def test_a_damaged_run_is_named(tmp_path):
    (write_run(tmp_path / "a") / "results.json").write_text("{")
    with pytest.raises(UsageError, match="a is damaged: JSONDecodeError"):
        find_runs([str(tmp_path)])


class Api:
    """W&B's, with one run."""

    def __init__(self, state="finished"):
        self.state = state
        self.summary = {"test/top1": 0.75, "val/top1": 0.5, "_step": 9}
        self.config = {"seed_everything": 4, **settings("se"), "network": {"network": "resnet8"}}

    def run(self, path):
        if path != "me/project/abc":
            message = f"Could not find run {path}"
            raise ValueError(message)
        return self


def test_a_run_of_wandb_is_read_like_a_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(finished.wandb, "Api", Api)
    ((found,), _) = find_runs(["me/project/abc"])
    write_run(tmp_path / "a", "se", 4)
    ((local,), _) = find_runs([str(tmp_path)])
    assert (found.seed, found.metrics, found.settings) == (4, {"test/top1": 0.75}, local.settings)
    assert found.network == {"network": "resnet8"}
    with pytest.raises(OSError, match="W&B has not returned me/project/x: Could not find run"):
        find_runs(["me/project/x"])


def test_a_running_run_of_wandb_is_left_out(monkeypatch):
    monkeypatch.setattr(finished.wandb, "Api", lambda: Api("running"))
    with pytest.raises(UsageError, match="me/project/abc: it is running"):
        find_runs(["me/project/abc"])
