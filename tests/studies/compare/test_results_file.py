"""Results files: what is saved is read back, and compares like the runs themselves."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbam_lightning.errors import UsageError
from cbam_lightning.studies.compare.arms import Arm, by_seed, group_arms, saved_arms
from cbam_lightning.studies.compare.finished import FinishedRun
from cbam_lightning.studies.compare.results_file import save_results
from cbam_lightning.studies.compare.run_sources import find_runs
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
def read(tmp_path):
    """Runs of two arms as they are read, and a line on one that is left out."""
    for attention in ("none", "cbam"):
        for seed in (0, 1):
            path = write_run(tmp_path / "runs" / attention / f"seed_{seed}", attention, seed, 0.5 + seed / 8)
            (path / "metrics.csv").write_text(METRICS_CSV)
    (write_run(tmp_path / "runs" / "se" / "seed_0", "se") / "results.json").unlink()
    return find_runs([str(tmp_path / "runs")])


@pytest.fixture
def path(read, tmp_path):
    """The file of these runs."""
    runs, left_out = read
    save_results(tmp_path / "results.jsonl", group_arms(runs), runs, left_out)
    return tmp_path / "results.jsonl"


def content(runs):
    """Return runs as text, in which NaN equals NaN, without what a file changes."""
    return [json.dumps(asdict(replace(run, source="", arm="", machine={})), sort_keys=True) for run in runs]


def test_every_run_is_a_line_with_what_differs(path):
    first, *lines = map(json.loads, path.read_text().splitlines())
    assert [(line["arm"], line["seed"]) for line in lines] == [
        *[("cbam", 0), ("cbam", 1)],
        *[("none", 0), ("none", 1)],
    ]
    assert lines[0]["settings"] == {"model.attention": "cbam"}
    assert first["shared"]["settings"]["data.batch_size"] == 64
    assert "torch" in first["shared"]["machine"]
    assert lines[0]["machine"] == {}
    assert str(lines[0]["epochs"]) == (
        "[{'epoch': 0, 'step': 49, 'train/loss': 1.7101484537124634, 'val/loss': 2.5, 'val/top1': 0.25}, "
        "{'epoch': 1, 'step': 99, 'train/loss': 0.7035968899726868, 'val/loss': nan, 'val/top1': 0.5}]"
    )


def test_saved_runs_and_arms_are_read_back(read, path, tmp_path):
    runs, left_out = find_runs([str(path)])
    assert content(runs) == content(read[0])
    assert left_out == read[1] == [f"{tmp_path}/runs/se/seed_0: it is not finished"]
    assert runs[0].source == f"{path}:2 (cbam, seed 0)"
    assert [(arm.label, list(arm.runs)) for arm in saved_arms(runs)] == [("cbam", [0, 1]), ("none", [0, 1])]


def test_settings_that_are_not_compared_are_saved(tmp_path):
    for attention in ("none", "cbam"):
        write_run(tmp_path / attention, attention, 3, split_seed=3, num_workers=len(attention))
    runs, _ = find_runs([str(tmp_path)])
    path = tmp_path / "results.jsonl"
    save_results(path, group_arms(runs, ignore=["data.num_workers"]), runs)
    cbam, none = find_runs([str(path)])[0]
    assert cbam.settings["data.split_seed"] == none.settings["data.split_seed"] == 3
    assert cbam.settings["data.num_workers"] == none.settings["data.num_workers"] == 4


def test_a_machine_is_kept_when_files_are_merged(read, tmp_path):
    runs = [replace(run, machine={"processor": "Abacus 3"} if run.seed else {}) for run in read[0]]
    for seed in (0, 1):
        half = [run for run in runs if run.seed == seed]
        save_results(tmp_path / f"{seed}.jsonl", group_arms(half), half)
    merged, _ = find_runs([str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl")])
    save_results(tmp_path / "both.jsonl", group_arms(merged), merged)
    for run in find_runs([str(tmp_path / "both.jsonl")])[0]:
        assert (run.machine["processor"] == "Abacus 3") == (run.seed == 1)


VALUES = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.text()))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=4))
def test_any_settings_are_read_back(tmp_path, records):
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    runs = [FinishedRun(str(seed), seed, values, {}) for seed, values in enumerate(records)]
    save_results(path, [Arm("all", by_seed(runs))], runs)
    assert [run.settings for run in find_runs([str(path)])[0]] == records


def test_a_file_is_not_overwritten(read, path):
    before = path.read_text()
    with pytest.raises(UsageError, match="already exists"):
        save_results(path, group_arms(read[0]), *read)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "3", '{"a": 1}', '{"shared": {}, "left_out": []}\n{"arm": "a"}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"results\.jsonl is damaged, or not written by `compare --save`"):
        find_runs([str(path)])


def changed(path, number, **values):
    """Change values in a line, or remove those that are ..."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number - 1] = {k: v for k, v in (lines[number - 1] | values).items() if v is not ...}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("number", "values", "words"),
    [
        (1, {"shared": None}, "in line 1, shared is null"),
        (1, {"shared": {"settings": None, "machine": {}}}, "in line 1, settings is null"),
        (1, {"left_out": None}, "in line 1, left_out is null"),
        (1, {"left_out": "a"}, 'in line 1, left_out is "a"'),
        (3, {"settings": None}, "in line 3, settings is null"),
        (3, {"settings": []}, r"in line 3, settings is \[\]"),
        (3, {"metrics": None}, "in line 3, metrics is null"),
        (3, {"metrics": {"test/top1": None}}, "in line 3, test/top1 is no number"),
        (3, {"metrics": {"test/top1": "0.5"}}, "in line 3, test/top1 is no number"),
        (3, {"metrics": {"test/top1": True}}, "in line 3, test/top1 is no number"),
        (3, {"network": None}, "in line 3, network is null"),
        (3, {"epochs": None}, "in line 3, epochs is null"),
        (3, {"machine": None}, "in line 3, machine is null"),
        (3, {"seed": None}, "in line 3, seed is null"),
        (3, {"seed": True}, "in line 3, seed is true"),
        (3, {"seed": "0"}, 'in line 3, seed is "0"'),
        (3, {"arm": None}, "in line 3, arm is null"),
        (3, {"arm": ...}, "in line 3, arm is missing"),
        (3, {"further": 1}, "unexpected keyword argument 'further'"),
    ],
)
def test_a_wrong_value_is_told_with_its_line(path, number, values, words):
    changed(path, number, **values)
    with pytest.raises(UsageError, match=rf"results\.jsonl is damaged, .*{words}"):
        find_runs([str(path)])


def test_nan_is_saved_and_read_back(read, tmp_path):
    runs = [replace(run, metrics={"test/loss": float("nan"), "test/top1": 0.5}) for run in read[0]]
    save_results(tmp_path / "nan.jsonl", group_arms(runs), runs)
    again, _ = find_runs([str(tmp_path / "nan.jsonl")])
    assert content(again) == content(runs)
