"""The command, with costs measured and files written."""

import csv
import json
import math

import pytest
import torch

from cbam_lightning.models import create_model
from cbam_lightning.models.complexity import count
from cbam_lightning.studies.compare import costs
from tests.command import call
from tests.studies.compare.synthetic import write_run


@pytest.fixture
def runs(tmp_path):
    for seed, (plain, better) in enumerate([(0.80, 0.85), (0.81, 0.86), (0.79, 0.8401)]):
        write_run(tmp_path / "runs" / "none" / str(seed), "none", seed, plain)
        write_run(tmp_path / "runs" / "cbam" / str(seed), "cbam", seed, better)
    return tmp_path / "runs"


def test_table_and_files_say_the_same(runs, tmp_path, capsys):
    assert call(f"compare {runs} --batch-size 2 --repeats 1 --out {tmp_path / 'out'}") == 0
    out = capsys.readouterr().out
    assert "+5.00" in out
    with (tmp_path / "out" / "comparison.csv").open() as file:
        none, cbam = csv.DictReader(file)
    assert float(cbam["difference"]) == pytest.approx((0.05 + 0.05 + 0.0501) / 3)
    assert (none["verdict"], cbam["verdict"]) == ("", "higher")
    network = create_model("resnet8", attention="cbam", num_classes=10, in_channels=1)
    assert (int(cbam["params"]), int(cbam["macs"])) == count(network, 28, 1)
    assert int(cbam["saved_bytes"]) > int(none["saved_bytes"]) > 0
    assert float(cbam["step_ms_cpu"]) > 0
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| cbam | 3 | 85.00 | 1.00 | 84.01 to 86.00 | +5.00 |" in markdown
    for name in ("comparison.png", "costs.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


def test_measured_costs_are_shown_again_without_measuring(runs, tmp_path, capsys, monkeypatch):
    assert call(f"compare {runs} --batch-size 2 --repeats 1 --out {tmp_path / 'out'}") == 0
    table, _, _ = capsys.readouterr().out.partition("Written: ")
    monkeypatch.setattr(costs, "measure_costs", None)
    costs_file = tmp_path / "out" / "costs.json"
    assert call(f"compare {runs} --costs {costs_file} --out {tmp_path / 'again'}") == 0
    assert capsys.readouterr().out.startswith(table)
    assert (tmp_path / "again" / "costs.json").read_text() == costs_file.read_text()
    assert call(f"compare {runs} --costs {costs_file} --no-costs") == 2
    assert "--costs and --no-costs exclude each other" in capsys.readouterr().err
    assert call(f"compare {runs} --costs {costs_file} --batch-size 64") == 2
    assert "so --batch-size has no effect" in capsys.readouterr().err
    assert call(f"compare {runs} --costs {tmp_path / 'no.json'}") == 2
    assert "no.json does not exist" in capsys.readouterr().err


def test_without_costs_only_the_comparison_is_written(runs, tmp_path, capsys):
    assert call(f"compare {runs} --no-costs --out {tmp_path / 'out'}") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.md", "comparison.csv", "comparison.png"}


@pytest.fixture
def study(runs, tmp_path):
    """A study whose runs are these."""
    (tmp_path / "base.yaml").write_text("model: {class_path: Classifier}")
    (tmp_path / "study.yaml").write_text(
        "{config: base.yaml, root: ., seeds: [0, 1, 2], arms: {with: {model.attention: cbam}, without: {}}}"
    )
    for number, arm in (("none", "without"), ("cbam", "with")):
        for seed in range(3):
            target = tmp_path / "study" / arm / f"seed_{seed}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (runs / number / str(seed)).rename(target)


def test_a_study_is_compared_under_its_own_names(study, capsys):
    assert call("compare study.yaml --no-costs") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (lines[1][0], lines[2][0], lines[2][7]) == ("with", "without", "-5.00")
    assert call("compare study.yaml --no-costs --baseline without --arms with") == 0
    assert "+5.00" in capsys.readouterr().out
    assert call("compare study.yaml --no-costs --by model.attention --baseline none") == 0
    assert "\ncbam " in capsys.readouterr().out
    assert call("compare study.yaml --no-costs --arms wiht") == 2
    assert "Did you mean 'with'" in capsys.readouterr().err


def test_an_arm_without_a_finished_run_is_told(study, tmp_path, capsys):
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(
        text.replace("without: {}", "without: {}, se: {model.attention: se}")
    )
    assert call("compare study.yaml --no-costs") == 0
    assert "Left out: se: it has no finished run." in capsys.readouterr().out


def test_a_seed_without_a_result_is_told(study, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text((tmp_path / "study.yaml").read_text().replace("2]", "2, 3]"))
    (tmp_path / "study" / "without" / "seed_1" / "results.json").rename(tmp_path / "gone.json")
    assert call("compare study.yaml --no-costs") == 0
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out")]
    assert left_out == [
        "Left out: study/without/seed_1: it is not finished.",
        "Left out: with, seed 3: it has no result.",
        "Left out: without, seed 3: it has no result.",
    ]


def test_a_study_of_one_arm_is_one_line(study, tmp_path, capsys):
    (tmp_path / "study" / "without").rename(tmp_path / "elsewhere")
    words = "'with' is the only arm of study.yaml with a finished run, and a comparison needs two"
    text = (tmp_path / "study.yaml").read_text()
    for arms in (", without: {}}}", "}}"):
        (tmp_path / "study.yaml").write_text(text.replace(", without: {}}}", arms))
        assert call("compare study.yaml --no-costs") == 2
        assert words in capsys.readouterr().err
    (tmp_path / "study.yaml").write_text(
        text.replace("{with: {model.attention: cbam}, without: {}}", "{with: {}}")
    )
    assert call("compare study.yaml --no-costs") == 2
    assert words in capsys.readouterr().err


def test_a_file_of_one_arm_is_one_line(study, tmp_path, capsys):
    assert call("compare study.yaml --no-costs --save all.jsonl") == 0
    lines = (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "one.jsonl").write_text("".join(lines[:4]))
    assert call("compare one.jsonl --no-costs") == 2
    assert "a comparison needs the baseline 'with' and another arm" in capsys.readouterr().err
    assert call("compare all.jsonl --no-costs --arms with") == 2
    assert "a comparison needs the baseline 'with' and another arm" in capsys.readouterr().err


def test_a_loss_is_compared_in_its_own_unit_without_the_runs_that_lost_it(runs, tmp_path, capsys):
    losses = {"none": (0.5, 0.625, 0.75), "cbam": (0.25, 0.5, math.nan)}
    for arm, values in losses.items():
        for seed, loss in enumerate(values):
            path = runs / arm / str(seed) / "results.json"
            path.write_text(path.read_text().replace('"test/loss": 0.3', f'"test/loss": {json.dumps(loss)}'))
    assert call(f"compare {runs} --metric test/loss --no-costs") == 0
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    (cbam,) = (line.split() for line in table.splitlines() if line.startswith("cbam"))
    assert cbam[:3] == ["cbam", "2", "0.3750"]
    assert cbam[-5:] == ["-0.1875", "-0.9816", "to", "+0.6066", "="]
    assert "in percent" not in notes
    assert f"Left out: {runs}/cbam/2: its test/loss is nan." in " ".join(notes.split())


def test_a_study_without_a_run_is_told_how_to_get_one(study, tmp_path, capsys):
    (tmp_path / "study").rename(tmp_path / "elsewhere")
    assert call("compare study.yaml") == 2
    error = capsys.readouterr().err
    assert "study.yaml has no run in study; make them: `cbam-lightning study study.yaml`" in error


def test_published_results_are_compared_where_there_are_no_runs(study, tmp_path, capsys):
    assert call("compare study.yaml --no-costs --save published/all.jsonl") == 0
    compared = capsys.readouterr().out
    (tmp_path / "study").rename(tmp_path / "elsewhere")
    text = (tmp_path / "study.yaml").read_text().removesuffix("}")
    (tmp_path / "study.yaml").write_text(f"{text}, results: published/all.jsonl}}")
    assert call("compare study.yaml --no-costs") == 0
    assert capsys.readouterr().out == compared
    assert call("compare published/all.jsonl --no-costs") == 0
    assert capsys.readouterr().out == compared
    assert call("compare published/all.jsonl --by model.attention --batch-size 2 --repeats 1") == 0
    assert "saved MB" in capsys.readouterr().out
    assert call("compare study.yaml --no-costs --save published/all.jsonl") == 2
    assert "all.jsonl already exists" in capsys.readouterr().err


def test_an_option_cut_short_is_refused(study, capsys):
    assert call("compare study.yaml --no-costs --baselin without") == 2
    assert "--baselin" in capsys.readouterr().err


def test_a_run_that_the_study_does_not_know_is_refused(study, tmp_path, capsys):
    write_run(tmp_path / "study" / "with" / "seed_7", "cbam", 7)
    assert call("compare study.yaml --no-costs") == 2
    assert "seed_7 is not a run of study.yaml" in capsys.readouterr().err


def test_arms_of_the_same_settings_are_refused(study, tmp_path, capsys):
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("{model.attention: cbam}", "{model.network: resnet8}"))
    assert call("compare study.yaml --no-costs") == 2
    assert "differ in more than the compared settings" in capsys.readouterr().err


def test_nothing_is_overwritten(runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.csv").write_text("mine")
    assert call(f"compare {runs} --no-costs --out {tmp_path / 'out'}") == 2
    assert "comparison.csv already exists" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["comparison.csv"]


def test_what_is_left_out_is_told(runs, capsys):
    (runs / "cbam" / "2" / "results.json").unlink()
    assert call(f"compare {runs} --no-costs") == 0
    out = capsys.readouterr().out
    assert "2 (2 paired)" not in out
    assert f"Left out: {runs}/cbam/2: it is not finished." in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--baseline se", "unknown arm 'se'"),
        ("--by data.root", "no run has a setting data.root"),
        ("--repeats 0", "repeats"),
        ("--threads 0 --no-costs", "threads is 0"),
        ("--device tpu", "device is 'tpu'"),
        ("--metric test/top7", "Allowed: test/loss, test/top1"),
    ],
)
def test_a_mistake_is_one_line(runs, options, words, capsys):
    assert call(f"compare {runs} {options}") == 2
    assert words in capsys.readouterr().err


def test_the_threads_stay_as_they_are_without_an_option(runs):
    before = torch.get_num_threads()
    assert call(f"compare {runs} --batch-size 2 --repeats 1") == 0
    assert torch.get_num_threads() == before
