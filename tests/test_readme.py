"""What the README says is so."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cbam_lightning.data import FashionMNIST
from tests.command import NO_WANDB, SHORT, call, only_run, parsed
from tests.data.generate import write_image_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECIPES = (ROOT / "experiments" / "README.md").read_text()
YOUR_OWN = re.findall(r"^\| (\w+) \| \[\S+\]\((\S+)\) \| `(.*)` \|$", README, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", README + RECIPES, re.DOTALL)
TRAINING = ("fit", "predict")


def test_the_python_example_runs():
    code, *_ = PYTHON
    short = "Trainer(fast_dev_run=True, enable_progress_bar=False)"
    code, replaced = re.subn(r"Trainer\(max_epochs=\d+\)", short, code)
    assert replaced == 1
    names = {"__name__": "__mp_main__"}  # in a worker that is started anew, as on macOS
    exec(code, names)
    assert "model" not in names
    names = {"__name__": "__main__"}
    exec(code, names)
    with torch.no_grad():
        assert names["model"](torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_the_example_of_insertion_runs():
    _, code, _ = PYTHON
    names = {}
    exec(code, names)
    assert sum(name.endswith(".attention") for name, _ in names["network"].named_modules()) == 8


def test_the_example_of_detection_builds_the_papers_detector():
    *_, code = PYTHON
    names = {}
    exec(code, names)
    assert sum(p.numel() for p in names["detector"].parameters()) == 32_056_984


@pytest.fixture
def images_in_a_list():
    """Ten pictures of each of two classes, and the list that the example of data reads."""
    images, labels = FashionMNIST().load_part(train=True)
    lines = []
    for label in (0, 1):
        for number, image in enumerate(images[labels == label][:10, 0].numpy()):
            Image.fromarray(image).resize((70, 64 + number)).save(f"{label}_{number}.png")
            lines.append(f"{label}_{number}.png,{label}\n")
    Path("train.csv").write_text("".join(lines))


@pytest.mark.parametrize(("part", "file", "options"), YOUR_OWN, ids=[row[0] for row in YOUR_OWN])
def test_each_part_of_your_own_runs(part, file, options, images_in_a_list, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = Path(shutil.copy(ROOT / file, ".")).stem
    few = "--data.batch_size 8 --data.num_workers 0 --run.test_after_fit false"
    try:
        assert call("fit --data FashionMNIST", options, few, SHORT, NO_WANDB) == 0, capsys.readouterr().err
    finally:
        sys.modules.pop(module, None)
    config = (only_run() / "config.yaml").read_text()
    assert f"{module}." in config


def test_every_axis_has_an_example():
    axes = {"attention", "network", "data", "augmentation", "loss", "metric", "LightningModule"}
    assert {row[0] for row in YOUR_OWN} == axes


def test_the_commands_have_no_unknown_option(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "photos")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    text = (README + RECIPES).replace("\\\n", " ")
    found = re.findall(r"^ +(cbam-lightning .*)$", text, re.MULTILINE)
    commands = [c for c in found if not re.search("RUN/|my_attention", c) and c.split()[1] in TRAINING]
    assert len(commands) == 11

    for command in commands:
        parsed(shlex.split(command, comments=True)[1:], monkeypatch)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("models torchvision/densenet121 --places", "features.transition1.conv"),
        ("weights list", "resnet20_cbam.fashion_mnist"),
        ("weights show resnet20_cbam.fashion_mnist", "Ankle boot"),
        pytest.param("weights verify --all", "as stated", marks=pytest.mark.slow),
    ],
)
def test_the_commands_that_need_nothing_run(command, expected, capsys):
    assert re.search(rf"^ +cbam-lightning {command}", RECIPES, re.MULTILINE)
    assert call(command) == 0
    assert expected in capsys.readouterr().out


def test_every_experiment_folder_and_fragment_is_named():
    for folder in (ROOT / "experiments").iterdir():
        if folder.is_dir() and folder.name != "with":
            assert f"`experiments/{folder.name}`" in RECIPES
    for path in (ROOT / "experiments" / "with").iterdir():
        assert f"`{path.stem}`" in RECIPES


def test_every_make_target_has_its_help():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target


def test_the_readme_can_be_read_in_two_minutes():
    assert len(README.splitlines()) <= 150


def test_every_link_leads_somewhere():
    for text, folder in ((README, ROOT), (RECIPES, ROOT / "experiments")):
        for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            file = folder / path if path else ROOT / "experiments" / "README.md"
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.read_text()), target


def anchors(markdown):
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
