"""Arbitrary configurations and command lines end in a run or a one-line error, and run no other code."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from cbam_lightning.cli.main import main
from cbam_lightning.cli.trainer import TrainerCLI
from cbam_lightning.errors import UsageError
from tests.command import NO_WANDB
from tests.fuzz.damage import altered, damaged, fuzz, json_values, lengths

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
EXPERIMENTS = [
    path.read_text()
    for folder in ("fashion_mnist", "cifar10", "imagenet", "insertion", "with")
    for path in sorted((ROOT / "experiments" / folder).glob("*.yaml"))
]
# Would leave a file behind if called, with or without its arguments.
CALLS = {
    "os.system": {"command": "touch canary"},
    "os.mkdir": {"path": "canary"},
    "pathlib.Path.touch": {"self": "canary"},
    "subprocess.Popen": {"args": ["touch", "canary"]},
    "subprocess.run": {"args": "touch canary", "shell": True},
    "builtins.open": {"file": "canary", "mode": "w"},
    "builtins.exec": {"source": "open('canary', 'w')"},
    "builtins.eval": {"source": "open('canary', 'w')"},
    "logging.FileHandler": {"filename": "canary"},
    "torch.hub.load": {"repo_or_dir": ".", "model": "x", "source": "local"},
}
TAGS = ["!!python/object/apply:os.system ['touch canary']", "!!python/object/apply:os.mkdir [canary]"]
TAGS += ["!!python/object/new:os.mkdir [canary]", "!!python/name:os.system", "!!python/module:os"]
TAGS += ["!!python/object/apply:builtins.exec [\"open('canary', 'w')\"]", "!!python/tuple [1]"]
TAGS += ["!!binary x", "!!set {a}", "*unknown", "{<<: [1]}", "2020-01-01", "!unknown a", "&a x", "- a", "|"]
CLASSES = st.builds(
    lambda path, given: {"class_path": path, "init_args": CALLS[path]} if given else path,
    st.sampled_from(sorted(CALLS)),
    st.booleans(),
)
NAMES = ["model", "data", "trainer", "wandb", "run", "checkpoint", "class_path", "init_args", "callbacks"]
NAMES += ["optimizer", "schedule", "logger", "strategy", "plugins", "imports", "config", "ckpt_path", "<<"]


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run the command until it creates the trainer; any mistake must end in a one-line error."""

    def stop(self, **kwargs):
        raise SystemExit(0)

    monkeypatch.setattr(TrainerCLI, "instantiate_trainer", stop)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")

    def run(*words):
        code = main(words)
        text = capfd.readouterr().err
        assert not Path("canary").exists()
        assert "Traceback" not in text
        if code:
            *_, line = text.splitlines()
            assert text.count("cbam-lightning: error: ") == 1
            raise UsageError(line)

    yield run
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert {path.name for path in Path().rglob("*")} <= {"c.yaml", "runs"}


def fit(run, text):
    Path("c.yaml").write_text(text, encoding="utf-8", errors="replace")
    run("fit", "--config", "c.yaml", *NO_WANDB.split())


@lengths(5, 50)
def test_an_experiment_with_other_values(examples, run):
    documents = [yaml.safe_load(text) for text in EXPERIMENTS]
    values = st.one_of(json_values(), CLASSES)
    changed = st.sampled_from(documents).flatmap(lambda document: altered(document, values))
    fuzz(examples, changed.map(yaml.safe_dump), lambda text: fit(run, text), UsageError)


@lengths(5, 50)
def test_an_experiment_with_other_letters(examples, run):
    texts = damaged(*[text.encode() for text in EXPERIMENTS])
    fuzz(examples, texts, lambda content: fit(run, content.decode(errors="replace")), UsageError)


@lengths(5, 50)
def test_generated_yaml(examples, run):
    """Draw YAML of our option names, plain values, and tags that name functions."""
    plain = json_values().map(lambda value: yaml.safe_dump(value, default_flow_style=True, width=9999))
    values = st.one_of(plain, st.sampled_from(TAGS), CLASSES.map(str))
    names = st.one_of(st.sampled_from(NAMES), st.text(max_size=3).map(repr))
    lines = st.builds("{}: {}\n".format, names, values)
    nested = st.builds("{}:\n  {}  {}".format, names, lines, lines)
    texts = st.lists(st.one_of(lines, nested), max_size=4).map("".join)
    works = "model: {class_path: Classifier, init_args: {network: resnet20}}\ndata: FashionMNIST\n"
    known = st.sampled_from([works, works + "trainer: {max_epochs: 3}\n"])
    fuzz(examples, st.one_of(texts, texts, known), lambda text: fit(run, text), UsageError)


COMMANDS = ["fit", "validate", "test", "predict", "models", "table", "weights", "data", "export", "fti", ""]
WORDS = [
    "--model.network",
    "--model",
    "--data",
    "--config",
    "--ckpt_path",
    "--trainer.max_epochs",
    "--help",
    "-c",
    "--model.weights",
    "--",
    "-1",
    "0",
    "1e999",
    "--trainer.callbacks",
    "--model.optimizer",
    "--imports",
    "--print_config",
    "--version",
    "list",
    "show",
    "verify",
    "import",
    "out.safetensors",
    "pack",
    "--to",
    "onnx",
    "--network",
    "--root",
    "resnet20",
    "FashionMNIST",
    "CIFAR10",
    "Classifier",
    "SGD",
    "nowhere",
    "timm/x",
    "torchvision/x",
    "*",
    "=",
    "--x=y",
    "torchvision/resnet18",
    "[",
]
WORDS += ["{a: b}", "a\nb", "", *CALLS, *TAGS]
WORKING = [
    ("weights", "list"),
    ("models", "resnet*"),
    ("fit", "--data", "CIFAR10", "--model.network", "resnet20"),
]


@lengths(12, 60)
def test_a_command_line(examples, run):
    texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4)
    words = st.lists(st.one_of(st.sampled_from(WORDS), texts), max_size=5).map(tuple)
    lines = st.builds(lambda command, words: (command, *words), st.sampled_from(COMMANDS), words)
    working = st.sampled_from(WORKING)
    mixed = st.builds(lambda line, words: (*line, *words[:2]), working, words)
    fuzz(examples, st.one_of(lines, mixed, working), lambda words: run(*words), UsageError)


def test_no_control_character_reaches_the_terminal(capsys):
    assert main(["weights", "list", "x", "\x1b[31m"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[" * 5_000, b"{a: " * 2_000])
def test_a_deep_configuration(content, run):
    Path("c.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"c\.yaml cannot be read: its values are nested too deeply"):
        run("fit", "--config", "c.yaml")


LAUGHS = "a: &a [1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghij")
)


@pytest.mark.parametrize("content", ["&a {x: *a}", "model: &a [*a]", LAUGHS], ids=["dict", "list", "laughs"])
def test_aliases_without_an_end(content, run):
    Path("c.yaml").write_text(content)
    with pytest.raises(
        UsageError, match=r"c\.yaml cannot be read: its aliases \(\*\) expand to far too many values"
    ):
        run("fit", "--config", "c.yaml")


def test_what_is_no_text(run):
    Path("c.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"c\.yaml"):
        run("fit", "--config", "c.yaml")
