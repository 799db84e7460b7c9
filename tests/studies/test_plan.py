"""The runs that a study file describes."""

import shlex

import pytest
import yaml

from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.settings import same_value
from cbam_lightning.studies import read_study
from tests.command import call, parsed

BASE = {
    "model": {"class_path": "Classifier", "init_args": {"network": "resnet20"}},
    "data": "FashionMNIST",
    "trainer": {"max_epochs": 2},
}
STUDY = {
    "config": "base.yaml",
    "seeds": [0, 3],
    "settings": {"data.split_seed": "{seed}"},
    "arms": {
        "none": None,
        "cbam": {"model.attention": "cbam", "model.attention_options": {"pools": ["max"]}},
    },
}


def dump(values):
    return yaml.safe_dump(values, sort_keys=False)


@pytest.fixture
def written(tmp_path):
    def write(study=STUDY, base=BASE):
        folder = tmp_path / "experiments" / "small"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "base.yaml").write_text(dump(base))
        (folder / "study.yaml").write_text(study if isinstance(study, str) else dump(study))
        return folder / "study.yaml"

    return write


def test_every_arm_has_every_seed_and_seeds_are_finished_together(written):
    study = read_study(written())
    assert [(run.arm, run.seed) for run in study.runs] == [("none", 0), ("cbam", 0), ("none", 3), ("cbam", 3)]
    assert str(study.runs[3].directory.path) == "runs/small/study/cbam/seed_3"


def test_a_command_is_what_fit_understands(written, monkeypatch):
    (*_, last) = read_study(written()).runs
    words = shlex.split(last.command)
    assert words[:4] == ["cbam-lightning", "fit", "--config", str(written().with_name("base.yaml"))]

    config = parsed(words[1:], monkeypatch)
    assert config["seed_everything"] == config["data"]["init_args"]["split_seed"] == 3
    assert config["model"]["init_args"]["attention"] == "cbam"
    assert config["model"]["init_args"]["attention_options"] == {"pools": ["max"]}
    run = config["run"]
    assert (run["root"], run["experiment"], run["name"]) == ("runs", "small/study/cbam", "seed_3")


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_parts_are_the_whole_and_share_nothing(written, of):
    study = read_study(written())
    parts = [study.part(number, of) for number in range(1, of + 1)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in study.runs)


@pytest.mark.parametrize("number", [0, 3])
def test_a_part_that_does_not_exist_is_refused(written, number):
    with pytest.raises(UsageError, match="the first is 1/2, the last 2/2"):
        read_study(written()).part(number, 2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arm": {}}, "Did you mean 'arms'"),
        ({"arms": {}}, "has no arms"),
        ({"seeds": None}, "has no seeds"),
        ({"arms": ["none"]}, "arms, a name for each"),
        ({"arms": {"a/b": {}}}, "'a/b' cannot be the name of a study or an arm: it has a slash"),
        ({"arms": {"..": {}}}, "it stands for another folder"),
        ({"arms": {"": {}}}, "it is empty"),
        ({"arms": {"a\nb": {}}}, "it has characters that cannot be printed"),
        ({"arms": {"none": "cbam"}}, "options as `name: value`"),
        ({"seeds": [0, 0]}, "seeds, a list of different"),
        ({"seeds": [True]}, "seeds, a list of different"),
        ({"seeds": [-1]}, "seeds, a list of different"),
        ({"seeds": 3}, "seeds, a list of different"),
        ({"threads": 0}, "threads, 1 or more"),
        ({"settings": [1]}, "options as"),
        ({"results": 3}, "results, the path of a results file"),
        ({"settings": 0}, "options as"),
        ({"arms": {"none": False}}, "options as"),
        ({"arms": {"none": 3}}, "options as"),
        ({"arms": None}, "has no arms"),
        ({"config": None}, "has no config"),
        ({"config": ["base.yaml"]}, "config, the path"),
        ({"seeds": [0, None]}, "seeds, a list of different"),
        ({"seeds": ["0"]}, "seeds, a list of different"),
        ({"seeds": [1.5]}, "seeds, a list of different"),
        ({"seeds": {0: 1}}, "seeds, a list of different"),
        ({"root": 3}, "root, a folder"),
        ({"threads": True}, "threads, 1 or more"),
        ({"settings": {"seed_everything": 1}}, "no option seed_everything or run.root or .* sets itself"),
        ({"arms": {"none": {"run.name": "a"}}}, "which the study sets itself"),
        ({"settings": {"run": {"experiment": "a"}}}, "which the study sets itself"),
        ({"config": "nothing.yaml"}, r"nothing\.yaml does not exist"),
    ],
)
def test_a_mistake_in_the_file_is_told(written, changed, words):
    path = written({**STUDY, **changed})
    with pytest.raises(UsageError, match=words):
        _ = read_study(path).runs


def test_null_is_the_default(written):
    empty = dict.fromkeys(("settings", "root", "results", "threads"))
    study = read_study(written({**STUDY, **empty}))
    assert (study.settings, study.root, study.results, study.threads) == ({}, "runs", None, None)
    assert study.runs[0].command.startswith("cbam-lightning fit --config")


@pytest.mark.parametrize(("text", "words"), [("a: [", "is not YAML"), ("- 1", "keys with values")])
def test_a_file_that_is_no_study_is_told(written, text, words):
    with pytest.raises(UsageError, match=words):
        read_study(written(text))


def finish(run, **settings):
    """Leave what a finished run leaves."""
    run.directory.path.mkdir(parents=True)
    run.directory.results.write_text('{"metrics": {"test/top1": 0.5, "val/top1": 0.25}}')
    init_args = {"network": "resnet20", "attention": "cbam", "attention_options": {"pools": ["max"]}}
    config = {
        "model": {"class_path": "cbam_lightning.Classifier", "init_args": init_args},
        "data": {"class_path": "cbam_lightning.data.FashionMNIST", "init_args": {"split_seed": run.seed}},
        "trainer": {"max_epochs": 2, **settings},
    }
    run.directory.config.write_text(yaml.safe_dump(config))


def test_a_finished_run_is_known_by_its_test(written):
    run = read_study(written()).runs[1]
    assert run.metrics() == {}
    finish(run)
    assert run.metrics() == {"test/top1": 0.5}


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_other_settings_is_not_taken_for_one_of_the_study(written, finished):
    run = read_study(written()).runs[1]
    finish(run, max_epochs=7)
    if not finished:
        run.directory.results.unlink()
    with pytest.raises(UsageError, match=r"made with trainer.max_epochs = 7, but the study says 2\. Move"):
        run.metrics()


@pytest.mark.parametrize(
    ("ending", "files", "state"),
    [
        ("", [], "open"),
        ("failed", [], "failed"),  # before it wrote its configuration
        ("", ["config.yaml"], "started"),  # and killed
        ("stopped", ["config.yaml"], "stopped"),
        ("failed", ["config.yaml"], "failed"),
        ("ended", ["config.yaml"], "untested"),
        ("failed", ["config.yaml", "divergence.json"], "diverged"),
        ("ended", ["config.yaml", "results.json"], "finished"),
    ],
)
def test_a_run_is_listed_as_what_it_is(written, ending, files, state, capsys):
    run = read_study(written()).runs[1]
    finish(run)
    for name in ("config.yaml", "results.json"):
        if name not in files:
            (run.directory.path / name).unlink()
    if "divergence.json" in files:
        run.directory.divergence.touch()
    if ending:
        run.directory.note_ending(ending)
    assert call(f"study {written()} --list") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == state
    assert run.diverged == (state == "diverged")


def test_a_run_that_another_process_trains_is_listed_as_running(written, monkeypatch):
    run = read_study(written()).runs[1]
    finish(run)
    run.directory.results.unlink()
    run.directory.divergence.touch()
    monkeypatch.setattr(RunDirectory, "is_occupied", True)
    assert run.state == "running"


@pytest.mark.parametrize("name", ["config.yaml", "results.json"])
@pytest.mark.parametrize("text", ["", "null", "[]", "{", "\0", '{"metrics": null}', '{"metrics": [0.5]}'])
def test_a_damaged_run_is_one_line(written, name, text, capsys):
    run = read_study(written()).runs[1]
    finish(run)
    (run.directory.path / name).write_text(text)
    code = call(f"study {written()} --list")
    error = capsys.readouterr().err
    if name == "config.yaml" and "metrics" in text:
        assert code == 0  # a configuration that says nothing of the study
    else:
        assert code == 2
        assert "cbam/seed_0 is damaged: " in error
        assert error.count("\n") == 1


# words that YAML 1.1, or even 1.2, takes for something else
WORDS = ("no", "yes", "on", "Off", "true", "1", "1.10", "1e3", "010", "1:30", "2026-11-26", ".inf")


def test_the_name_of_an_arm_is_the_word_that_was_typed(written):
    expected = [*WORDS, "null", "lr=0.1", "a b", "läufe"]
    arms = "".join(f"  {word}:\n" for word in expected)
    study = read_study(written(f"config: base.yaml\nseeds: [0]\narms:\n{arms}"))
    assert [run.arm for run in study.runs] == expected
    assert [run.directory.path.parent.name for run in study.runs] == expected


@pytest.mark.parametrize("word", WORDS)
def test_a_name_among_the_options_is_the_word_that_was_typed(written, monkeypatch, word):
    text = "config: base.yaml\nseeds: [0]\n"
    text += f"settings:\n  wandb.notes: {word}\narms:\n  a:\n    wandb.group: {word}\n"
    (run,) = read_study(written(text)).runs
    wandb = parsed(shlex.split(run.command)[1:], monkeypatch)["wandb"]
    assert (wandb["notes"], wandb["group"]) == (word, word)


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("trainer.enable_progress_bar", "no", False),
        ("trainer.enable_progress_bar", "True", True),
        ("trainer.gradient_clip_val", "0.50", 0.5),
        ("trainer.gradient_clip_val", "1e-3", 0.001),
        ("trainer.max_epochs", "3", 3),
        ("wandb.notes", "null", None),
    ],
)
def test_an_option_that_is_no_name_has_its_value(written, monkeypatch, option, text, value):
    study = f"config: base.yaml\nseeds: [0]\narms:\n  a:\n    {option}: {text}\n"
    (run,) = read_study(written(study)).runs
    group, name = option.split(".")
    config = parsed(shlex.split(run.command)[1:], monkeypatch)
    assert config[group][name] == value
    assert same_value(run.expected[option], value)


def test_a_name_that_occurs_twice_is_told(written):
    text = "config: base.yaml\nseeds: [0]\narms:\n  a: {model.attention: se}\n  a: {model.attention: cbam}\n"
    with pytest.raises(UsageError, match="'a' occurs twice"):
        read_study(written(text))


def test_a_study_may_be_merged_from_parts(written):
    text = "config: base.yaml\nseeds: [0]\narms:\n  a: &a {x.y: 1, x.z: no}\n  b: {<<: *a, x.y: 2}\n"
    assert read_study(written(text)).arms["b"] == {"x.y": 2, "x.z": "no"}


def test_the_runs_of_a_study_may_be_in_the_home_folder(written, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    study = read_study(written({**STUDY, "root": "~/runs"}))
    assert str(study.folder) == "/home/someone/runs/small/study"
