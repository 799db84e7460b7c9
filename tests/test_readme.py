"""What the README says is so."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from cbam_lightning.trainer_cli import TrainerCLI
from tests.data.generate import write_image_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    short = "Trainer(fast_dev_run=True, enable_progress_bar=False)"
    code, replaced = re.subn(r"Trainer\(max_epochs=\d+\)", short, code)
    assert replaced == 1
    names = {}
    exec(code, names)
    with torch.no_grad():
        assert names["model"](torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_the_commands_have_no_unknown_option(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "photos")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    text = README.replace("\\\n", " ")
    commands = [c for c in re.findall(r"^    (cbam-lightning .*)$", text, re.MULTILINE) if "RUN/" not in c]
    assert len(commands) == 2

    class Parsed(Exception):
        pass

    def stop(self):
        raise Parsed

    monkeypatch.setattr(TrainerCLI, "_parse_ckpt_path", stop)
    for command in commands:
        with pytest.raises(Parsed):
            TrainerCLI(shlex.split(command)[1:])


def test_every_experiment_folder_and_fragment_is_named():
    for folder in (ROOT / "experiments").iterdir():
        if folder.is_dir() and folder.name != "with":
            assert f"`experiments/{folder.name}`" in README
    for path in (ROOT / "experiments" / "with").iterdir():
        assert f"`{path.stem}`" in README


def test_every_make_target_has_its_help():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
