"""A user's modules are imported before anything is parsed, from wherever they are named."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from cbam_lightning import Classifier
from cbam_lightning.cli.own_code import VARIABLE, import_own_modules
from cbam_lightning.errors import UsageError
from tests.cli.test_bad_input import one_line
from tests.command import NO_WANDB, SHORT, call, only_run, parsed

MARKS = "print(__name__, file=open('imported', 'a'))\n"


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("alpha", "beta", "gamma"):
        Path(f"{name}.py").write_text(MARKS)
    yield
    for name in ("alpha", "beta", "gamma", "own_parts"):
        sys.modules.pop(name, None)


def imported():
    return Path("imported").read_text().split() if Path("imported").exists() else []


@pytest.mark.parametrize(
    "words",
    [
        "--imports alpha",
        "--imports=alpha,beta",
        "--imports '[alpha, beta]'",
        "--imports '[\"alpha\"]'",
        "--imports+ alpha",
        "--imports+=alpha --imports+=beta",
    ],
)
def test_every_command_takes_the_option(words, capsys):
    assert call("models 'resnet1?'", words) == 0
    assert imported() == (["alpha", "beta"] if "beta" in words else ["alpha"])
    assert "resnet18" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        *("table --help", "weights list", "data pack --help", "benchmark attention --help", "export --help"),
        *("explain --help", "compare --help", "study --help", "new --help", "fit --help", "predict --help"),
    ],
)
def test_the_environment_does_the_same(command, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "alpha,beta")
    assert call(command) == 0
    assert imported() == ["alpha", "beta"]


def test_all_configurations_count_and_each_module_once(monkeypatch):
    Path("a.yaml").write_text("imports: [alpha]\n")
    Path("b.yaml").write_text("imports: beta\n")
    monkeypatch.setenv(VARIABLE, "gamma")
    words = ["fit", "--config", "a.yaml", "--imports", "alpha", "--config=b.yaml", "--x", "1"]
    rest, names = import_own_modules(words)
    assert rest == ["fit", "--config", "a.yaml", "--config=b.yaml", "--x", "1"]
    assert sorted(names) == ["alpha", "beta", "gamma"]
    assert sorted(imported()) == ["alpha", "beta", "gamma"]


def test_those_of_a_run_and_of_a_study_need_no_word():
    Path("run").mkdir()
    Path("run/config.yaml").write_text("imports: [alpha]\n")
    assert import_own_modules(["resume", "run", "--trainer.max_epochs", "3"])[1] == ["alpha"]
    Path("base.yaml").write_text("imports: [beta]\n")
    Path("study.yaml").write_text("config: base.yaml\n")
    for command in ("study", "compare"):
        assert import_own_modules([command, "--jobs", "2", "study.yaml"])[1] == ["beta"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("models --imports nowhere", "there is no module 'nowhere' in /"),
        ("models --imports ''", "--imports is []; give modules"),
        ("models --imports", "--imports is []; give modules"),
        ("models --imports 'a b'", "--imports is ['a b']; give modules"),
        ("models --imports ../alpha", "--imports is ['../alpha']; give modules"),
        ("fit --config c.yaml", "imports of c.yaml is {'alpha': 1}; give modules"),
        ("weights list --imports broken", "broken.py, line 2: ZeroDivisionError"),
    ],
)
def test_one_line_for_a_mistake(words, expected, capsys):
    Path("c.yaml").write_text("imports: {alpha: 1}\n")
    Path("broken.py").write_text("\n1 / 0\n")
    assert call(words) == 2
    assert expected in one_line(capsys)


def test_a_debugged_error_shows_where_it_is(capsys):
    Path("broken.py").write_text("\n1 / 0\n")
    assert call("models --imports broken --debug") == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert 'broken.py", line 2, in <module>' in shown


OWN_PARTS = """
import torch
from cbam_lightning import Classifier

class Task(Classifier):
    def __init__(self, factor: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def loss(self, logits, batch):
        return self.factor * super().loss(logits, batch)
"""


def test_a_single_name_will_do_in_a_configuration(monkeypatch):
    Path("one.yaml").write_text("imports: alpha\n")
    words, names = import_own_modules(["fit", "--config", "one.yaml"])
    assert names == ["alpha"]
    assert parsed([*words, "--data", "FashionMNIST"], monkeypatch)["imports"] == "alpha"


@pytest.mark.parametrize("where", ["attention", "optimizer"])
def test_loading_a_checkpoint_in_python_imports_nothing(where):
    values = {"attention": "alpha.A", "optimizer": {"class_path": "alpha.A", "init_args": {}}}
    hparams = {"network": "resnet8", "_class_path": "cbam_lightning.Classifier", where: values[where]}
    torch.save({"state_dict": {}, "hyper_parameters": hparams}, "x.ckpt")
    with pytest.raises(UsageError, match=r"names the class 'alpha.A', which is not imported"):
        Classifier.load_from_checkpoint("x.ckpt")
    assert not imported()


def test_modules_are_saved_with_the_run_and_a_checkpoint_imports_none(capsys):
    Path("own_parts.py").write_text(OWN_PARTS)
    words = "fit --data FashionMNIST --model own_parts.Task --model.network resnet8 --model.factor 0.5"
    assert call(words, "--data.batch_size 8 --imports alpha", SHORT, NO_WANDB) == 0
    run = only_run()
    assert yaml.safe_load((run / "config.yaml").read_text())["imports"] == ["alpha"]
    best = run / "checkpoints" / "best.ckpt"
    for name in ("own_parts", "alpha"):
        del sys.modules[name]
    Path("imported").unlink()
    capsys.readouterr()
    assert call(f"test --data FashionMNIST --ckpt_path {best}", NO_WANDB) == 2
    assert (
        "names the class 'own_parts.Task', which is not imported; import its module with --imports"
        in one_line(capsys)
    )
    assert "own_parts" not in sys.modules
    assert call(f"resume {run} --trainer.max_epochs 2") == 0
    assert imported() == ["alpha"]
    assert "own_parts" in sys.modules
