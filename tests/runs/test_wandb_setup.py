import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from cbam_lightning.errors import UsageError
from cbam_lightning.runs import wandb_setup
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.metrics_file import MetricsFile
from cbam_lightning.runs.wandb_setup import WandbOptions, build_loggers, finish_wandb, wandb_lines
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import load_checkpoint
from tests.command import NO_WANDB, SHORT, SMALL, call, only_run
from tests.runs.recordings import WANDB, config, history, read_back


def test_an_offline_run_holds_config_metrics_and_media(capsys):
    assert (
        call("fit", SMALL, SHORT, "--trainer.log_every_n_steps 1 --wandb.tags '[a,b]' --wandb.notes why") == 0
    )
    printed = capsys.readouterr().out
    run = only_run()
    folder, records = read_back(run)

    (start,) = [r["run"] for r in records if "run" in r and "project" in r["run"]][:1]
    assert start["run_id"] == run.name
    assert start["project"] == "cbam_lightning"
    assert start["run_group"] == "default"
    assert start["job_type"] == "fit"
    assert start["tags"] == ["a", "b"]
    assert start["notes"] == "why"

    saved = yaml.safe_load((run / "config.yaml").read_text())
    sent = config(records)
    assert sent["model"]["init_args"] == saved["model"]["init_args"]
    assert sent["data"] == saved["data"]
    assert sent["trainer"]["max_epochs"] == 1
    total = sum(
        v.numel()
        for k, v in load_checkpoint(run / "checkpoints/best.ckpt").state_dict.items()
        if "bn" not in k
    )
    assert sent["parameters"]["total"] == sent["parameters"]["trainable"] > total * 0.9

    logged = history(records)
    results = json.loads((run / "results.json").read_text())["metrics"]
    assert logged["test/top1"] == [pytest.approx(results["test/top1"])]
    assert len(logged["train/loss"]) == 3
    assert len(logged["lr-SGD"]) == 3
    assert len(logged["val/top1"]) == 1
    (rate,) = logged["train/images_per_s"]
    assert rate > 0
    for key in ("val/predictions", "val/confusion_matrix", "test/predictions", "test/confusion_matrix"):
        assert logged[f"{key}._type"] == ["images/separated"]
    pictures = sorted((folder / "files" / "media" / "images").rglob("*.png"))
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as image:
            assert min(image.size) > 100
    tables = {
        p.parent.name + "/" + p.name.split("_table")[0]: p for p in (folder / "files").rglob("*.table.json")
    }
    rows = json.loads(tables["test/confusion"].read_text())
    assert rows["columns"] == ["class", "prediction", "images"]
    assert sum(row[2] for row in rows["data"]) == 3 * 64
    assert len(json.loads(tables["test/predictions"].read_text())["data"]) == 16

    (command,) = re.findall(r"upload it with: (\S*wandb sync .*)", printed)
    words = [*WANDB, *shlex.split(command)[1:], "--dry-run", "--yes"]
    synced = subprocess.run(words, capture_output=True, text=True, check=False)
    assert f"run-{run.name}.wandb" in synced.stdout + synced.stderr


NO_TEST = "--run.test_after_fit false"


def test_the_command_takes_names_from_the_surroundings(monkeypatch):
    for name, value in {"PROJECT": "p", "NAME": "n", "RUN_GROUP": "g", "TAGS": "a,b", "ENTITY": "e"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert call("fit", SMALL, SHORT, NO_TEST, "--run.name 'lr=0.1 ä' --wandb.notes why") == 0
    run = only_run()
    assert run.name == "lr=0.1 ä"
    _, records = read_back(run)
    start = next(r["run"] for r in records if "project" in r.get("run", {}))
    assert (start["project"], start["entity"], start["display_name"]) == ("p", "e", "n")
    assert (start["run_group"], start["tags"], start["notes"]) == ("g", ["a", "b"], "why")
    assert re.fullmatch(r"lr-0\.1---[0-9a-f]{6}", start["run_id"])
    # the file repeats the run, not its surroundings
    saved = yaml.safe_load((run / "config.yaml").read_text())["wandb"]
    assert (saved["project"], saved["group"], saved["notes"]) == (None, None, "why")


@pytest.mark.parametrize("name", ["..", "''", "=-a", ":#/", "'a\nb'"])
def test_the_command_refuses_a_name_before_anything_is_made(name, capsys):
    assert call("fit", SMALL, SHORT, f"--run.name{name}" if name[0] == "=" else f"--run.name {name}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "cannot be a folder of runs" in line
    assert not any(Path().iterdir())


def test_two_runs_do_not_collide():
    for _ in range(2):
        assert call("fit", SMALL, SHORT) == 0
    runs = list(Path("runs/default").iterdir())
    assert len(runs) == 2
    assert {read_back(run)[1][1]["run"]["run_id"] for run in runs} == {run.name for run in runs}
    for run in runs:
        assert (run / "config.yaml").is_file()
        assert (run / "checkpoints" / "best.ckpt").is_file()


def test_switched_off_nothing_of_wandb_is_written(tmp_path):
    assert call("fit", SMALL, SHORT, NO_WANDB) == 0
    assert not list(tmp_path.rglob("*wandb*"))
    assert (only_run() / "metrics.csv").is_file()


# wandb keeps what it has found out, so each question has a process of its own
ASK = """
import json, os, sys
from cbam_lightning.runs.wandb_environment import is_offline, surrounding_settings
for variables in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(variables)
        print(is_offline(surrounding_settings()), flush=True)
        os._exit(0)
    os.wait()
"""


def test_the_run_is_offline_if_there_is_no_key_or_no_answer(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server_url = f"http://127.0.0.1:{server.getsockname()[1]}"
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {server_url[7:]}\n  login user\n  password {'0' * 40}\n")
        netrc.chmod(0o600)
        there = {"WANDB_BASE_URL": server_url}
        nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
        key = {"WANDB_API_KEY": "0" * 40}
        cases = (
            (there, "True"),
            (there | key, "False"),
            (there | {"NETRC": str(netrc)}, "False"),
            (there | {"NETRC": str(netrc), "WANDB_MODE": "offline"}, "True"),
            (there | {"WANDB_MODE": "online"}, "False"),
            (nowhere | key, "True"),
            (nowhere | key | {"WANDB_MODE": "online"}, "True"),
            (nowhere | key | {"HTTP_PROXY": server_url, "NO_PROXY": ""}, "False"),
            (nowhere | key | {"HTTP_PROXY": server_url, "NO_PROXY": "127.0.0.1"}, "True"),
        )
        words = [sys.executable, "-c", ASK, json.dumps([variables for variables, _ in cases])]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    answers = [line for line in done.stdout.splitlines() if line in ("True", "False")]
    assert answers == [expected for _, expected in cases]
    assert done.stderr.count("http://127.0.0.1:9 does not answer; the run is recorded here") == 3


def sent(run, options=None, experiment="x/y"):
    logger, metrics_file = build_loggers(RunDirectory(run), experiment, options or WandbOptions(), "test")
    assert Path(metrics_file.save_dir) == run
    return logger._wandb_init


def test_the_options_reach_wandb(tmp_path):
    options = WandbOptions(project="p", entity="e", group="g", name="n", log_model=True)
    logger, _ = build_loggers(RunDirectory(tmp_path), "x/y", options, "test")
    values = logger._wandb_init
    assert (values["project"], values["entity"], values["group"], values["name"]) == ("p", "e", "g", "n")
    assert (values["id"], values["dir"], values["job_type"]) == (tmp_path.name, str(tmp_path), "test")
    # checkpoints cannot be uploaded without a connection
    assert values["mode"] == "offline"
    assert logger._log_model is False


VARIABLES = {
    "project": ("WANDB_PROJECT", "p", "cbam_lightning"),
    "entity": ("WANDB_ENTITY", "e", None),
    "name": ("WANDB_NAME", "n", "x/y"),
    "group": ("WANDB_RUN_GROUP", "g", "x/y"),
    "tags": ("WANDB_TAGS", "a,b", None),
    "notes": ("WANDB_NOTES", "why", None),
    "job_type": ("WANDB_JOB_TYPE", "j", "test"),
    "dir": ("WANDB_DIR", "/somewhere", None),
}


@pytest.mark.parametrize("option", VARIABLES)
def test_an_option_wins_then_the_environment_then_our_default(tmp_path, monkeypatch, option):
    variable, value, default = VARIABLES[option]
    if option != "dir":
        assert sent(tmp_path / "a")[option] == default
    monkeypatch.setenv(variable, value)
    given = ("a", "b") if option == "tags" else value
    assert sent(tmp_path / "b")[option] == given
    if hasattr(WandbOptions, option):
        typed = ["typed"] if option == "tags" else "typed"
        assert sent(tmp_path / "c", WandbOptions(**{option: typed}))[option] == typed


def test_a_run_stays_where_it_is_in_wandb_when_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "first")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    assert sent(tmp_path)["project"] == "first"
    monkeypatch.setenv("WANDB_PROJECT", "second")
    monkeypatch.delenv("WANDB_TAGS")
    values = sent(tmp_path)
    assert (values["project"], list(values["tags"])) == ("first", ["a", "b"])
    assert sent(tmp_path, WandbOptions(project="typed"))["project"] == "typed"
    assert sent(tmp_path)["project"] == "typed"
    assert sent(tmp_path / "new")["project"] == "second"


def test_what_wandb_init_wrote_counts_after_the_environment(tmp_path, monkeypatch):
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nproject = filed\nentity = team\n")
    monkeypatch.setenv("WANDB_ENTITY", "e")
    values = sent(tmp_path / "run")
    assert (values["project"], values["entity"]) == ("filed", "e")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("WANDB_MODE", "onlin", r"WANDB_MODE=onlin: Input should be 'online', 'offline'"),
        ("WANDB_MODE", "Offline", r"WANDB_MODE=Offline: Input should be 'online', 'offline'"),
        ("WANDB_CONSOLE", "no", "WANDB_CONSOLE=no: Input should be 'auto', 'off'"),
        ("WANDB_PROJECT", "a/b", "WANDB_PROJECT=a/b: Invalid project name"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT=soon: Input should be a valid number"),
        ("WANDB_BASE_URL", "api", "WANDB_BASE_URL=api: "),
    ],
)
def test_a_variable_that_wandb_does_not_understand_is_refused(tmp_path, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=words):
        sent(tmp_path)


def test_an_option_that_wandb_does_not_understand_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Invalid project name 'a#b'"):
        sent(tmp_path, WandbOptions(project="a#b"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "x" * 129}, "--wandb.name has 129 characters; W&B takes at most 128"),
        ({"group": "x" * 129}, "--wandb.group has 129 characters"),
        ({"tags": ["a", "x" * 65]}, "tags of 1 to 64 characters"),
        ({"tags": [""]}, "--wandb.tags: ''"),
    ],
)
def test_what_the_server_would_refuse_is_refused_here(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        sent(tmp_path, WandbOptions(**options))


def test_a_long_experiment_has_a_shorter_name_in_wandb(tmp_path):
    values = sent(tmp_path, experiment="a/" * 90 + "end")
    assert len(values["name"]) == len(values["group"]) == 128
    assert values["name"].endswith("a/end")


def test_an_empty_variable_is_none(tmp_path, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_TAGS", "WANDB_CONSOLE"):
        monkeypatch.setenv(name, "")
    values = sent(tmp_path)
    assert (values["project"], values["tags"]) == ("cbam_lightning", None)


@pytest.fixture
def told(monkeypatch):
    """What is told at the start of a run."""
    lines = []
    monkeypatch.setattr(wandb_setup, "rank_zero_info", lines.append)
    return lines


def test_an_id_that_several_runs_would_share_is_not_used(tmp_path, monkeypatch, told):
    monkeypatch.setenv("WANDB_RUN_ID", "shared")
    assert sent(tmp_path)["id"] == tmp_path.name
    (line,) = told
    assert line.startswith(
        f"Not used: WANDB_RUN_ID; every run has an id of its own, this one {tmp_path.name}"
    )


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_the_environment_can_switch_wandb_off(tmp_path, monkeypatch, told, variable, value):
    monkeypatch.setenv(variable, value)
    (only,) = build_loggers(RunDirectory(tmp_path), "x", WandbOptions(), "fit")
    assert isinstance(only, MetricsFile)
    assert told == ["W&B is off, as WANDB_MODE, WANDB_DISABLED or `wandb disabled` says."]
    assert not (tmp_path / "wandb").exists()


def test_settings_of_the_user_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    settings = sent(tmp_path)["settings"]
    assert (settings.console, settings.init_timeout) == ("wrap", 20)
    assert "console" not in settings.model_fields_set


def test_where_the_home_cannot_be_written_the_run_is(tmp_path, monkeypatch):
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, "/dev/null/home")
    sent(tmp_path)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "data_dir")
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "wandb" / "cache_dir")


def test_a_run_that_fails_is_shown_as_failed(monkeypatch):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Classifier, "on_train_epoch_end", fail)
    assert call("fit", SMALL, SHORT) == 1
    _, records = read_back(only_run())
    (end,) = [record["exit"] for record in records if "exit" in record]
    assert end["exit_code"] == 1


def test_a_logger_of_the_user_may_be_off(tmp_path):
    logger = WandbLogger(project="p", save_dir=tmp_path, mode="disabled")
    assert wandb_lines([logger]) == []
    finish_wandb(0)
