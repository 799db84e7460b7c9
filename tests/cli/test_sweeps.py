"""The sweep files, read by W&B's own code, come to commands that `fit` understands."""

import itertools
import sys
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from cbam_lightning.runs.directory import RunDirectory
from tests.command import parsed

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))


def suggestions(parameters):
    """Return every combination; of a range, its ends."""
    choices = [p.get("values") or [p["min"], p["max"]] for p in parameters.values()]
    for values in itertools.product(*choices):
        yield dict(zip(parameters, values, strict=True))


def command(sweep, suggestion):
    """Return what the agent would run, put together by W&B's code as its agent does."""
    args = {name: {"value": value} for name, value in suggestion.items()}
    known = create_sweep_command_args({"args": args})
    known |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable]}
    words = []
    for word in create_sweep_command(list(sweep["command"])):
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def setting(config, name):
    for part in name.split("."):
        config = config[part] if part in config else config["init_args"][part]
    return config


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_suggestions_come_to_their_settings(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep_config(str(path))
    assert sweep["metric"]["name"] == "val/top1"
    found = list(suggestions(sweep["parameters"]))
    for suggestion in (found[0], found[-1]):
        words = command(sweep, suggestion)
        assert words[:4] == ["/usr/bin/env", sys.executable, "-m", "cbam_lightning"]
        config = parsed(words[4:], monkeypatch)
        for name, value in suggestion.items():
            assert setting(config, name) == value
    assert len(found) == {"arms": 9, "tuning": 24}[path.stem]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_file_is_short_and_starts_with_its_command(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 30
    assert lines[0] == f"# wandb sweep experiments/sweeps/{path.name}"


def test_the_truth_values_that_an_agent_writes_are_understood(monkeypatch):
    sweep = {"command": ["fit", "--data", "FashionMNIST", "${args}"]}
    for value in (True, False):
        config = parsed(command(sweep, {"model.channels_last": value}), monkeypatch)
        assert config["model"]["init_args"]["channels_last"] is value


def test_a_run_of_a_sweep_keeps_the_id_that_the_agent_gave(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")
    assert RunDirectory.create(str(tmp_path), "other").id != "ab12cd34"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    run = RunDirectory.create(str(tmp_path), "sweep")
    monkeypatch.delenv("WANDB_RUN_ID")
    assert RunDirectory(run.path).id == "ab12cd34"
