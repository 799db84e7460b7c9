"""What a comparison reads of a run."""

import json

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
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
    for name, ending in (("e", "stopped"), ("f", "failed"), ("g", "ended")):
        (write_run(tmp_path / name) / "results.json").unlink()
        RunDirectory(tmp_path / name).note_ending(ending)
    runs, left_out = find_runs([str(tmp_path), str(tmp_path)])
    assert len(runs) == 1
    assert [line.rpartition("/")[2] for line in left_out] == [
        "b: it is not finished",
        "c: its loss became NaN or Inf",
        "d: it was not tested",
        "e: it was stopped, and can be resumed",
        "f: it failed",
        "g: it was not tested",
    ]


def test_a_running_run_is_left_out(tmp_path, monkeypatch):
    (write_run(tmp_path / "a") / "results.json").unlink()
    write_run(tmp_path / "b")
    monkeypatch.setattr(RunDirectory, "is_occupied", True)
    assert find_runs([str(tmp_path)])[1] == [f"{tmp_path}/a: it is running"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", "{", "a is damaged: JSONDecodeError"),
        ("results.json", "null", "a is damaged: results.json holds None"),
        ("results.json", '{"metrics": null}', "a is damaged: metrics in results.json is None"),
        ("results.json", '{"metrics": {}, "network": 3}', "a is damaged: network in results.json is 3"),
        ("config.yaml", "", "a is damaged: config.yaml holds None"),
        ("config.yaml", "a: [\nb", r"a is damaged: ParserError: [^\n]*\. Leave it out"),
        ("metrics.csv", "epoch,val/loss\n0,much\n", r"a/metrics\.csv is damaged: ValueError"),
        ("metrics.csv", "epoch,val/loss\n0,1,2\n", r"a/metrics\.csv is damaged"),
    ],
)
def test_a_damaged_run_is_named(tmp_path, name, text, words):
    (write_run(tmp_path / "a") / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        find_runs([str(tmp_path)])


@pytest.mark.parametrize(
    ("metrics", "kept"),
    [
        ('{"test/top1": NaN, "test/loss": -Infinity}', {"test/top1": "nan", "test/loss": "-inf"}),
        ('{"test/top1": null, "test/loss": 1, "test/x": true, "test/y": "0.5"}', {"test/loss": "1.0"}),
    ],
)
def test_nan_is_a_result_and_what_is_no_number_is_none(tmp_path, metrics, kept):
    (write_run(tmp_path / "a") / "results.json").write_text(f'{{"metrics": {metrics}}}')
    ((found,), _) = find_runs([str(tmp_path)])
    assert {name: str(value) for name, value in found.metrics.items()} == kept


@pytest.mark.parametrize("seed", [None, True, "3", 1.5])
def test_a_run_without_a_number_as_its_seed_is_left_out(tmp_path, seed):
    write_run(tmp_path / "a", seed=seed)
    write_run(tmp_path / "b")
    assert find_runs([str(tmp_path)])[1] == [f"{tmp_path}/a: its seed is {seed!r}, not a number"]


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


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "is running"), ("failed", "failed"), ("crashed", "crashed"), ("killed", "was killed")],
)
def test_an_unfinished_run_of_wandb_is_left_out(monkeypatch, state, words):
    monkeypatch.setattr(finished.wandb, "Api", lambda: Api(state))
    with pytest.raises(UsageError, match=f"me/project/abc: it {words}"):
        find_runs(["me/project/abc"])


def test_a_strange_run_of_wandb_is_read_or_left_out(monkeypatch):
    api = Api()
    monkeypatch.setattr(finished.wandb, "Api", lambda: api)
    api.summary = {"test/loss": "NaN", "test/top1": "Infinity", "test/table": {"_type": "table"}}
    api.config["network"] = None
    ((found,), _) = find_runs(["me/project/abc"])
    assert {name: str(value) for name, value in found.metrics.items()} == {
        "test/loss": "nan",
        "test/top1": "inf",
    }
    assert found.network == {}
    api.config = {}  # made by another program
    with pytest.raises(UsageError, match="its seed is None, not a number"):
        find_runs(["me/project/abc"])
    api.summary = {}
    with pytest.raises(UsageError, match="it was not tested"):
        find_runs(["me/project/abc"])
