"""From three real runs to a checkpoint of the package."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from cbam_lightning import create_model
from cbam_lightning.data import fashion_mnist
from cbam_lightning.errors import UsageError
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.weights import checkpoint_path, checkpoint_registry, list_weights, load_checkpoint
from cbam_lightning.weights.checkpoint_registry import find
from experiments.shipping.ship import main, ship
from tests.command import NO_WANDB, call, only_run
from tests.tasks.few_clothes import COUNT, write_few

NAME = "resnet20_cbam.fashion_mnist"
FIT = (
    "fit --data FashionMNIST --data.source full --data.batch_size 10 --model.network resnet20 "
    "--model.attention cbam --model.optimizer SGD --model.optimizer.lr 0.3 "
    '--model.network_options \'{"depths": [1, 1], "widths": [4, 8]}\' --trainer.enable_progress_bar false '
    "--trainer.enable_model_summary false --run.root runs --run.experiment small"
)
MADE = {"licence": "MIT", "command": "cbam-lightning fit --config x.yaml"}


def train(seed, options="--trainer.max_epochs 2"):
    name = f"seed_{seed}"
    assert call(FIT, options, NO_WANDB, f"--seed_everything {seed} --run.name {name}") == 0
    return str(Path("runs", "small", name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train three runs once, on a few images in the place of the full data set."""
    folder = tmp_path_factory.mktemp("trained")
    write_few(folder / "datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in range(3):
            train(seed)
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """Three runs that a test may damage, an empty table, and only a few images."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "no-package")
    monkeypatch.setattr(checkpoint_registry, "TABLE", tmp_path / "table" / "registry.json")
    (tmp_path / "table").mkdir()
    checkpoint_registry.TABLE.write_text("[]")
    return [str(Path("runs", "small", f"seed_{seed}")) for seed in range(3)]


def results(run):
    return json.loads(Path(run, "results.json").read_text())


def change_results(run, **changes):
    Path(run, "results.json").write_text(json.dumps(results(run) | changes))


def top1(run):
    return results(run)["metrics"]["test/top1"]


def test_the_run_of_the_median_is_shipped_with_what_all_came_to(runs):
    assert len({top1(run) for run in runs}) == 3
    entry = ship([runs[2], *runs[:2]], name=NAME, **MADE)
    chosen = sorted(runs, key=top1)[1]
    seed = chosen[-1]
    assert find(NAME) == entry
    assert entry.seeds == {run[-1]: pytest.approx(top1(run), abs=1e-6) for run in runs}
    assert entry.command == f"cbam-lightning fit --config x.yaml --seed_everything {seed}"
    assert (entry.licence, entry.dataset, entry.file) == ("MIT", "fashion_mnist", f"{NAME}.safetensors")
    content = checkpoint_path(NAME).read_bytes()
    assert (entry.sha256, entry.num_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    shipped, trained = (
        load_checkpoint(checkpoint_path(NAME)),
        load_checkpoint(RunDirectory(Path(chosen)).best),
    )
    assert shipped.state_dict.keys() == trained.state_dict.keys()
    assert all(torch.equal(value, trained.state_dict[key]) for key, value in shipped.state_dict.items())
    assert shipped.header.seed == int(seed)
    assert shipped.header.metrics == entry.metrics
    assert entry.metrics["test/top1"] == round(top1(chosen) * COUNT) / COUNT


def test_of_two_runs_the_lower_is_shipped(runs):
    pair = runs[:2]
    ship(pair, name=NAME, **MADE)
    assert load_checkpoint(checkpoint_path(NAME)).header.seed == int(min(pair, key=top1)[-1])


def test_what_was_shipped_is_verified_loaded_and_tested_by_its_name(runs, capsys):
    assert main([*runs, "--name", NAME, "--licence", "MIT", "--command", "x"]) == 0
    assert f"Written: {checkpoint_path(NAME)} and " in capsys.readouterr().out
    assert call(f"weights verify {NAME}") == 0
    assert capsys.readouterr().out.count("as stated") == 2
    state = create_model("resnet20", weights=NAME).state_dict()
    assert any(".attention." in key for key in state)
    assert call(f"test --data FashionMNIST --model.weights {NAME} --run.experiment again", NO_WANDB) == 0
    again = top1(only_run("again"))
    assert again == pytest.approx(find(NAME).metrics["embedded/top1"], abs=1e-6)


def test_the_card_states_origin_results_and_limits(runs, capsys):
    entry = ship(runs, name=NAME, **MADE)
    assert call(f"weights show {NAME}") == 0
    (path,) = re.findall(r"^card +(.+)$", capsys.readouterr().out, re.MULTILINE)
    card = Path(path).read_text()
    assert card.startswith(f"# {NAME}\n")
    figures = sorted(entry.seeds.values())
    low, median, high = (f"{figure:.4f}" for figure in figures)
    assert f"Median of 3 seeds {median}, lowest {low}, highest {high}." in card
    for seed, figure in entry.seeds.items():
        assert f"| {seed} | {figure:.4f} |" in card
    error = math.sqrt(figures[1] * (1 - figures[1]) / COUNT)
    assert f"The standard error of one such accuracy is {error:.4f}." in card
    assert f"{median} ({round(figures[1] * COUNT)} of {COUNT}) of all test images" in card
    by_class = [
        (int(right), int(of)) for right, of in re.findall(r"^\| [A-Z][^|]+ \| (\d+) \| (\d+) \|$", card, re.M)
    ]
    assert len(by_class) == 10
    assert [sum(column) for column in zip(*by_class, strict=True)] == [round(figures[1] * COUNT), COUNT]
    for part in (
        entry.sha256,
        entry.command,
        "© 2017 Zalando SE",
        "max_epochs: 2",
        "lr: 0.3",
        "share of 0.1",
    ):
        assert part in card


def test_the_commands_of_the_card_run(runs, capsys):
    ship(runs, name=NAME, **MADE)
    card = Path("table", "files", f"{NAME}.md").read_text()
    python, commands, *_ = re.findall(r"(?:^    .*\n)+", card, re.MULTILINE)
    names = {}
    exec("\n".join(line.strip() for line in python.splitlines()), names)
    assert not names["network"].training
    predict, fit, verify = commands.replace("\\\n", " ").replace("cbam-lightning ", "").splitlines()
    assert call(verify) == 0
    assert call(predict, NO_WANDB) == 0
    assert call(fit, NO_WANDB) == 2  # there are no photos here
    assert "photos" in capsys.readouterr().err


def test_a_checkpoint_of_the_same_name_is_replaced(runs):
    old = ship(runs[:1], name=NAME, **MADE)
    new = ship(runs[1:2], name=NAME, licence="MIT", command="y")
    assert old.sha256 != new.sha256
    assert list_weights() == [NAME]
    assert find(NAME) == new
    assert new.sha256 in Path("table", "files", f"{NAME}.md").read_text()
    assert checkpoint_path(NAME).stat().st_size == new.num_bytes


def refused(runs, expected, **changes):
    """Expect that nothing is shipped, and why."""
    with pytest.raises(UsageError, match=expected):
        ship(runs, **{"name": NAME} | MADE | changes)
    assert not Path("table", "files").exists()
    assert checkpoint_registry.TABLE.read_text() == "[]"


@pytest.mark.parametrize("damage", ["no results", "validated"])
def test_a_run_that_is_not_tested_is_refused(runs, damage):
    if damage == "no results":
        Path(runs[1], "results.json").unlink()
    else:
        change_results(runs[1], stage="validate", metrics={"val/top1": 0.5})
    refused(runs, rf"{runs[1]}: it (is not finished|was not tested)")
    refused([*runs[:1], "runs"], rf"{runs[1]}: it (is not finished|was not tested); let it finish")


def test_a_run_without_its_checkpoint_is_refused(runs):
    Path(runs[0], "checkpoints", "best.ckpt").unlink()
    refused(runs[:1], r"best\.ckpt")


def test_runs_of_two_configurations_are_refused(runs):
    other = train(3, "--trainer.max_epochs 1")
    expected = rf"{runs[0]} and {other} differ in more .* trainer\.max_epochs is 2 in the one and 1 in the"
    refused([*runs, other], expected)


def test_a_seed_counts_once(runs):
    twin = shutil.copytree(runs[1], "runs/small/twin")
    refused([*runs, str(twin)], rf"{runs[1]} and {twin} are two runs with the same settings and seed 1")


def test_a_run_without_a_seed_is_refused(runs):
    path = Path(runs[0], "config.yaml")
    path.write_text(path.read_text().replace("seed_everything: 0", "seed_everything: true"))
    refused(runs, "its seed is True, not a number")


def test_a_run_that_was_tested_on_other_images_is_refused(runs, capsys):
    wrong = round(top1(runs[0]) * COUNT) + 1
    change_results(runs[0], metrics={"test/top1": wrong / COUNT})
    refused(runs[:1], rf"\({wrong - 1} of {COUNT}\), stated is .* \({wrong}\).*on all images of the full")
    assert main([runs[0], "--name", NAME, "--licence", "MIT", "--command", "x"]) == 2
    assert "shipping: error: test/top1 of " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", ".x", "a..b", "x.safetensors"])
def test_a_name_that_is_none_is_refused(runs, name):
    refused(runs[:1], "name is ", name=name)
    assert not Path("x.safetensors").exists()
