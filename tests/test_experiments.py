"""Every file under experiments/ runs with the real readers on small files in the real formats."""

import contextlib
import importlib.util
import inspect
import itertools
import json
import math
import re
import shlex
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import cbam_lightning.data
import cbam_lightning.tasks
from cbam_lightning.attention import create_attention, list_attention
from cbam_lightning.data.detection.scene_files import write_scenes
from cbam_lightning.errors import UsageError
from cbam_lightning.models import create_model
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.published.classification_rows import published_rows
from cbam_lightning.runs.settings import same_value
from cbam_lightning.studies import read_study
from cbam_lightning.studies.compare.comparison import compare
from cbam_lightning.studies.compare.comparison_table import comparison_table
from cbam_lightning.studies.compare.costs import described
from cbam_lightning.studies.compare.costs_file import read_costs
from cbam_lightning.studies.compare.run_sources import find_runs
from cbam_lightning.studies.compare.study_arms import study_arms
from tests.command import call, only_run
from tests.data import generate

ROOT = Path(__file__).parents[1] / "experiments"
READMES = (ROOT / "README.md", ROOT.parent / "README.md")
# experiments/README.md compares ten seeds with five from an earlier checkpoint, which are not published
EARLIER_CHECKPOINT = ("+1.51", "-0.38", "+3.39")


def relative(path):
    return str(path.relative_to(ROOT))


# sweeps are tested in test_sweeps.py
EVERY = [path for path in sorted(ROOT.rglob("*.yaml")) if path.parent.name != "sweeps"]
STUDIES = [path for path in EVERY if "arms" in yaml.safe_load(path.read_text())]  # many runs each
FILES = [path for path in EVERY if path not in STUDIES]
FRAGMENTS = [path for path in FILES if path.parent.name == "with"]
EXPERIMENTS = [path for path in FILES if path not in FRAGMENTS]
TWO_STEPS = (
    "--trainer.max_steps 2 --trainer.limit_val_batches 1 --trainer.limit_test_batches 2 "
    "--trainer.num_sanity_val_steps 0 --trainer.enable_progress_bar false "
    "--data.batch_size 4 --data.num_workers 0"
)
SCENES = {"num_images": 12, "num_test_images": 8, "size_px": 64}
CLASSES = ",".join(json.dumps(name) for name in cbam_lightning.data.FashionScenes.class_names)
# Networks of full size are built by the tests of the models; here they and 224 pixels would only take longer.
NARROW = {"depths": [1, 1, 1, 1], "widths": [8, 8, 16, 16]}
FASTER_RCNN = {"min_size": 64, "max_size": 64, "backbone_options": NARROW}
SHORTER = {
    "CIFAR100": f"--model.network_options '{json.dumps(NARROW)}'",
    "ImageNet": f"--data.size_px 64 --model.network_options '{json.dumps(NARROW)}'",
    "FashionScenes": "--data.num_images 12 --data.num_test_images 8",
    "VOCDetection": f"--data.years [2007] --data.class_names '[{CLASSES}]'",
    "CocoDetection": f"--model.network_options '{json.dumps(FASTER_RCNN)}'",
}


def program(path):
    """Import a program under experiments/."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_data(name, root):
    """Write small files in the real format, and return the options that the real readers need."""
    writers = {
        "CIFAR10": generate.write_cifar10,
        "CIFAR100": generate.write_cifar100,
        "ImageNet": generate.write_imagenet,
        "FashionMNIST": generate.write_fashion_mnist,
        "ImageFolder": program("digits/write.py").write_digits,
        "VOCDetection": partial(write_scenes, layout="voc", **SCENES),
        "CocoDetection": partial(write_scenes, layout="coco", **SCENES),
        "FashionScenes": lambda root: None,
    }
    writers[name](root)
    return generate.accept_checksums(root) if name.startswith("CIFAR") else contextlib.nullcontext()


def class_of(section):
    return section if isinstance(section, str) else section["class_path"]


def in_short(path):
    """Mark detectors on VGG-16 as slow; other tests cover small ones of each kind."""
    return pytest.param(path, marks=pytest.mark.slow if "vgg16" in path.stem else ())


@pytest.mark.parametrize("path", map(in_short, EXPERIMENTS), ids=map(relative, EXPERIMENTS))
def test_an_experiment_trains_and_tests(path, tmp_path):
    config = yaml.safe_load(path.read_text())
    data = class_of(config["data"])
    with write_data(data, tmp_path / "data"):
        options = f"--data.root {tmp_path / 'data'} --wandb.enabled false {SHORTER.get(data, '')}"
        if "backbone_weights" in config["model"]["init_args"] and data != "FashionScenes":  # a download
            options += " --model.backbone_weights null"
        assert call(f"fit --config {path}", TWO_STEPS, options) == 0
    run = only_run(relative(path.with_suffix("")))
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    results = yaml.safe_load((run / "results.json").read_text())["metrics"]
    if "test/map" in results:
        assert 0 <= results["test/map"] <= results["test/map_50"] <= 1
    else:
        assert math.isfinite(results["test/loss"])
        assert 0 <= results["test/top1"] <= results["test/top5"] <= 1
    expected = "se" if "_se" in path.stem else "cbam" if "_cbam" in path.stem else "none"
    assert state["hyper_parameters"]["attention"] == expected


@pytest.mark.parametrize("path", FRAGMENTS, ids=relative)
def test_a_fragment_composes_with_an_experiment(path, tmp_path, monkeypatch):
    if path.stem == "slurm":  # as SLURM sets it for the only task of a job
        for name in ("NTASKS", "JOB_ID"):
            monkeypatch.setenv(f"SLURM_{name}", "1")
        for name in ("PROCID", "LOCALID", "NODEID"):
            monkeypatch.setenv(f"SLURM_{name}", "0")
        monkeypatch.setenv("SLURM_JOB_NAME", "job")
        monkeypatch.setenv("SLURM_NODELIST", "localhost")
    with write_data("CIFAR10", tmp_path / "data"):
        base = ROOT / "cifar10" / "resnet20_cbam.yaml"
        command = f"fit --config {base} --config {path} --data.root {tmp_path / 'data'}"
        # several processes are tested elsewhere; here all devices but one are dropped
        single = "--trainer.devices 1 --trainer.accelerator cpu"
        assert call(command, TWO_STEPS, single) == 0
    root = "runs/debug" if path.stem == "debug" else "runs"
    run = only_run("cifar10/resnet20_cbam", root)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    for section, values in yaml.safe_load(path.read_text()).items():
        for key, value in values.items():
            if f"--{section}.{key} " not in f"{TWO_STEPS} {single} " and key != "plugins":
                assert saved[section][key] == value, (section, key)
    assert (run / "wandb").is_dir() == saved["wandb"]["enabled"]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_is_short_and_starts_with_its_command(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 30
    comments = "\n".join(line for line in lines if line.startswith("#"))
    assert f"--config experiments/{relative(path)}" in comments
    if path in EXPERIMENTS:
        words = shlex.split(lines[0].lstrip("# "))
        assert words[:4] == ["cbam-lightning", "fit", "--config", f"experiments/{relative(path)}"]


@pytest.mark.parametrize("path", STUDIES, ids=relative)
def test_a_study_is_short_and_starts_with_its_command(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 30
    assert lines[0].startswith(f"# cbam-lightning study experiments/{relative(path)}")


@pytest.mark.parametrize("path", STUDIES, ids=relative)
def test_every_arm_of_a_study_can_be_built(path):
    study = read_study(path)
    assert {run.seed for run in study.runs} == {*study.seeds}
    for arm, given in study.arms.items():
        attention = given.get("model.attention", "none")
        options = given.get("model.attention_options", {})
        is_detector = class_of(yaml.safe_load(study.config.read_text())["model"]) == "Detector"
        create, name = (create_detector, "stairnet_resnet8") if is_detector else (create_model, "resnet8")
        create(name, attention=attention, attention_options=options), arm


PUBLISHED = [path for path in STUDIES if read_study(path).results]


@cache
def published_arms(path):
    study = read_study(path)
    return study_arms(study, find_runs([str(study.results)])[0])


@pytest.mark.parametrize("path", PUBLISHED, ids=relative)
def test_published_results_are_all_runs_of_the_study_as_it_is_now(path):
    study = read_study(path)
    runs, left_out = find_runs([str(study.results)])
    expected = {(run.arm, run.seed): run.expected for run in study.runs}
    assert (len(runs), left_out) == (len(expected), [])
    for run in runs:
        assert run.epochs[-1]["epoch"] + 1 == run.settings["trainer.max_epochs"]
        for key, value in expected[run.arm, run.seed].items():
            assert key not in run.settings or same_value(value, run.settings[key]), (run.source, key)


@pytest.mark.parametrize("path", PUBLISHED, ids=relative)
def test_the_table_of_a_study_is_in_a_readme(path):
    """Its rows follow each other; a README may add columns at the right.

    The costs of ``study.yaml`` are those in ``costs.json`` beside it, as ``compare --out`` measured them.
    """
    arms, costs = published_arms(path), None
    file = path.with_name("costs.json")
    if path.stem == "study" and file.is_file():
        costs, _ = read_costs(file, described(arms))
    comparison = compare(arms, arms[0].label, costs=costs)
    table = comparison_table(comparison).markdown().split("\n\n")[0].splitlines()[2:]
    starts = [row.removesuffix("|") for row in table]
    for readme in READMES:
        lines = readme.read_text().splitlines()
        for number in range(len(lines)):
            block = lines[number : number + len(starts)]
            if len(block) == len(starts) and all(map(str.startswith, block, starts)):
                return
    pytest.fail(f"the rows of {relative(path)} are in no README:\n" + "\n".join(table))


def published_differences():
    """Return the difference and its interval from every comparison of published results, as text."""
    texts = set()
    for path in PUBLISHED:
        arms = published_arms(path)
        groups = [arms, *itertools.combinations(arms, 2)]
        groups.append([arm for arm in arms if not arm.label.startswith(("none", "se", "eca", "bam"))])
        groups.append([arm for arm in arms if arm.label == "none" or arm.label.endswith("_identity")])
        groups.append([arm for arm in arms if not arm.label.endswith("_identity")])
        for group in (group for group in groups if len(group) > 1):
            for base in group:
                for row in comparison_table(compare(group, base.label)).rows[1:]:
                    texts.add((row[5], *row[6].split(" to ")))
    return texts


def test_every_difference_in_the_readmes_is_from_published_results():
    number = r"[+-]\d+\.\d\d(?!\d)"
    pattern = rf"({number})(?:,| \() ?({number}) to ({number})"
    found = {match for path in READMES for match in re.findall(pattern, " ".join(path.read_text().split()))}
    assert len(found) > 10
    assert found - published_differences() <= {EARLIER_CHECKPOINT}


def starts_as_identity(name, **options):
    """Return whether an attention module leaves maps as they are at first; ``None`` if it refuses options."""
    maps = torch.randn(2, 16, 8, 8)
    try:
        return torch.equal(create_attention(name, 16, **options).eval()(maps), maps)
    except UsageError:
        return None


def kin_arms(file):
    """Return the attention and its options by the name of the arm."""
    arms = read_study(ROOT / "kin" / file).arms
    return {
        name: (options.get("model.attention", "none"), options.get("model.attention_options", {}))
        for name, options in arms.items()
    }


def test_the_kin_are_all_modules_with_either_gate():
    """Every module is there as published, and with the identity gate if only that starts as the identity."""
    given = kin_arms("study.yaml")
    assert all(given[module][0] == module for module in list_attention())
    for name, (module, options) in given.items():
        published = {key: value for key, value in options.items() if key != "gate"}
        assert name.removesuffix("_identity") in given
        assert (options.get("gate") == "identity") == name.endswith("_identity")
        if not name.endswith("_identity"):
            start = starts_as_identity(module, **published)
            wanted = not start and starts_as_identity(module, **published, gate="identity")
            assert (f"{name}_identity" in given) == bool(wanted), name


def test_on_the_digits_the_kin_start_as_the_identity_where_they_can():
    given = kin_arms("digits.yaml")
    assert sorted(module for module, _ in given.values()) == sorted(list_attention())
    for name, (module, options) in given.items():
        assert name == module + "_identity" * (options.get("gate") == "identity")
        others = {key: value for key, value in options.items() if key != "gate"}
        can = starts_as_identity(module, **others) or starts_as_identity(module, **others, gate="identity")
        assert starts_as_identity(module, **options) == bool(can), name


def test_the_ablation_has_the_arms_of_the_paper():
    rows = [row for row in published_rows() if row.attention == "cbam" and "ablation" in row.table]
    study = read_study(ROOT / "ablation" / "study.yaml")
    arms = [given.get("model.attention_options", {}) for given in study.arms.values()]
    for row in rows:
        wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in row.attention_options.items()}
        assert wanted in arms, row


@pytest.mark.parametrize("path", EXPERIMENTS, ids=relative)
def test_an_experiment_holds_only_what_differs_from_the_defaults(path):
    config = yaml.safe_load(path.read_text())
    for section, module in (("model", cbam_lightning.tasks), ("data", cbam_lightning.data)):
        if isinstance(config[section], str):
            continue
        cls = getattr(module, config[section]["class_path"])
        defaults = {}
        for base in reversed(cls.__mro__):
            if "__init__" in vars(base):
                defaults |= {k: p.default for k, p in inspect.signature(base).parameters.items()}
        for key, value in config[section]["init_args"].items():
            assert value != defaults[key], (section, key)


@pytest.fixture
def measure():
    """Return the program of experiments/insertion, with another output folder."""
    return program("insertion/measure.py")


def test_the_table_of_insertion_is_what_was_measured(measure):
    measured = {arm: measure.accuracies(arm) for arm in measure.ARMS}
    assert all(len(seeds) == 3 for values in measured.values() for seeds in values)
    assert measure.table(measured) in (ROOT / "README.md").read_text()
    assert measured["resnet20_cbam_identity"][0] == [0.9330] * 3


def test_insertion_is_measured_drawn_and_not_measured_twice(measure, tmp_path, monkeypatch):
    generate.write_fashion_mnist(tmp_path / "data")
    options = (
        f"{TWO_STEPS} --trainer.max_steps -1 --trainer.limit_train_batches 1 --data.root {tmp_path / 'data'}"
    )
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results.csv")
    arm = "resnet20_cbam_identity"
    for row in measure.measure(arm, 0, options):
        measure.append(row)
    assert [(row["arm"], row["seed"], row["epochs"]) for row in measure.read()] == [
        (arm, "0", epochs) for epochs in ("0", "1", "3")
    ]
    monkeypatch.setattr(sys, "argv", ["measure.py", "--seeds", "0", "--arms", arm])
    monkeypatch.setattr(measure, "measure", None)
    measure.run()
    monkeypatch.setattr(measure, "HERE", tmp_path)
    measure.plot({arm: measure.accuracies(arm)})
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_the_digits_are_divided_the_same_for_everyone(tmp_path):
    program("digits/write.py").write_digits(tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    assert len({path.name for path in files}) == 1797
    counts = {
        part: [len(list(tmp_path.glob(f"{part}/{k}/*"))) for k in range(10)] for part in ("train", "test")
    }
    assert counts == {"train": [100] * 10, "test": [78, 82, 77, 83, 81, 82, 81, 79, 74, 80]}
    digits = load_digits()
    for path in files[:: len(files) // 50]:
        pixels = np.asarray(Image.open(path)) * (16 / 255)
        assert np.abs(pixels - digits.images[int(path.stem)]).max() < 0.04
        assert int(path.parent.name) == digits.target[int(path.stem)]
    first = sorted(path.name for path in tmp_path.glob("test/0/*"))[:3]
    assert first == ["0000.png", "0010.png", "0036.png"]
