"""Results files: what is saved is read back, and compares like the runs themselves."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare import FinishedRun, find_runs, save_results
from tests.studies.compare.synthetic import write_run

METRICS_CSV = """epoch,lr-SGD,step,test/top1,train/loss,val/loss,val/top1
,0.1,49,,,,
0,,49,,1.7101484537124634,,
0,,49,,,2.5,0.25
1,,99,,0.7035968899726868,,
1,,99,,,nan,0.5
1,,99,0.75,,,
"""


@pytest.fixture
def runs(tmp_path):
    for attention in ("none", "cbam"):
        for seed in (0, 1):
            path = write_run(tmp_path / "runs" / attention / f"seed_{seed}", attention, seed, 0.5 + seed / 8)
            (path / "metrics.csv").write_text(METRICS_CSV)
    (tmp_path / "runs" / "se").mkdir()
    (write_run(tmp_path / "runs" / "se" / "seed_0", "se") / "results.json").unlink()
    return find_runs([str(tmp_path / "runs")])


def content(runs):
    """Return runs as text, in which NaN equals NaN, without what a file changes."""
    return [json.dumps(asdict(replace(run, source="", machine={})), sort_keys=True) for run in runs]


def test_every_run_is_a_line_with_what_differs(runs, tmp_path):
    save_results(tmp_path / "results.jsonl", *runs)
    first, *lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert [line["name"] for line in lines] == ["cbam/seed_0", "cbam/seed_1", "none/seed_0", "none/seed_1"]
    assert lines[0]["settings"] == {"model.attention": "cbam"}
    assert first["shared"]["settings"]["data.batch_size"] == 64
    assert "torch" in first["shared"]["machine"]
    assert lines[0]["machine"] == {}
    assert str(lines[0]["epochs"]) == (
        "[{'epoch': 0, 'step': 49, 'train/loss': 1.7101484537124634, 'val/loss': 2.5, 'val/top1': 0.25}, "
        "{'epoch': 1, 'step': 99, 'train/loss': 0.7035968899726868, 'val/loss': nan, 'val/top1': 0.5}]"
    )


def test_saved_runs_are_read_back(runs, tmp_path):
    path = tmp_path / "results.jsonl"
    save_results(path, *runs)
    read, left_out = find_runs([str(path)])
    assert content(read) == content(runs[0])
    assert left_out == runs[1] == [f"{tmp_path}/runs/se/seed_0: it is not finished"]
    assert read[0].source == f"{path}:2 (cbam/seed_0)"


def test_a_machine_is_kept_when_files_are_merged(runs, tmp_path):
    elsewhere = [replace(run, machine={"processor": "Abacus 3"}) for run in runs[0][:2]]
    save_results(tmp_path / "one.jsonl", elsewhere)
    save_results(tmp_path / "other.jsonl", runs[0][2:])
    merged, _ = find_runs([str(tmp_path / "one.jsonl"), str(tmp_path / "other.jsonl")])
    save_results(tmp_path / "both.jsonl", merged)
    read, _ = find_runs([str(tmp_path / "both.jsonl")])
    assert [run.machine.get("processor") == "Abacus 3" for run in read] == [True, True, False, False]


VALUES = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.text()))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=4))
def test_any_settings_are_read_back(tmp_path, records):
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    save_results(path, [FinishedRun("", seed, values, {}) for seed, values in enumerate(records)])
    assert [run.settings for run in find_runs([str(path)])[0]] == records


def test_a_file_is_not_overwritten(runs, tmp_path):
    (tmp_path / "results.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        save_results(tmp_path / "results.jsonl", *runs)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a": 1}', '{"shared": {}, "left_out": []}\n{"name": "a"}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"results\.jsonl is damaged, or not written by `compare --save`"):
        find_runs([str(path)])
