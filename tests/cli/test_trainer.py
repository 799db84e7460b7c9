import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cbam_lightning import __version__
from cbam_lightning.models import list_models
from cbam_lightning.weights import load_checkpoint
from tests.command import NO_WANDB, SHORT, SMALL, call, only_run
from tests.data.generate import write_image_folder


def printed_commands(text):
    return [line.strip() for line in text.splitlines() if re.match(r"\s+\S*cbam-lightning ", line)]


def without_program(command):
    return shlex.split(command)[1:]


def results(run):
    return json.loads((run / "results.json").read_text())["metrics"]


def newest_run(root="runs"):
    return max((p.parent for p in Path(root).rglob("results.json")), key=os.path.getmtime)


def test_the_light_commands_import_neither_torch_nor_lightning():
    code = (
        "import sys; from cbam_lightning.cli.main import main; "
        "codes = [main([a]) for a in ('--version', '--help', 'models')]; "
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'torchvision'} & set(sys.modules); "
        "assert codes == [0, 0, 0] and not heavy, (codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert __version__ in done.stdout
    for name in list_models():
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE), name


def test_models_takes_a_pattern_and_refuses_one_without_matches(capsys):
    assert call("models 'resnet1??'") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "resnet101",
        "resnet110",
        "resnet152",
    ]
    assert call("models vgg*") == 2
    assert "vgg*" in capsys.readouterr().err


def test_the_whole_way_of_a_run(capsys, caplog):
    """Fit, then every command that it printed, as printed: the accuracy is the same to the last digit."""
    assert call("fit", SMALL, SHORT, NO_WANDB, "--model.channels_last true --model.optimizer.lr 0.02") == 0
    printed = capsys.readouterr().out
    run = only_run()
    assert sorted(p.name for p in run.iterdir() if not p.name.startswith(".")) == [
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "pictures",
        "results.json",
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    expected = results(run)
    assert set(expected) == {"test/loss", "test/top1", "test/top5"}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["test/top1"]) for row in rows if row["test/top1"]]
    assert logged == [expected["test/top1"]]

    evaluate, export, evaluate_export, fine_tune = printed_commands(printed)
    for command in (evaluate, export, evaluate_export):
        assert call(shlex.join(without_program(command))) == 0, command
        if " test " in command:
            assert results(newest_run()) == expected, command

    shared = load_checkpoint(without_program(export)[-1])
    assert shared.header.metrics["test/top1"] == expected["test/top1"]
    assert shared.header.network == "resnet20"
    assert shared.header.class_names[0] == "T-shirt/top"
    assert shared.header.version == __version__
    assert shared.header.seed == 0

    capsys.readouterr()
    assert call("weights show", without_program(export)[-1]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["network"] == "resnet20"
    assert shown["mean"] == "0.286"
    assert int(shown["values"]) == sum(value.numel() for value in shared.state_dict.values())

    write_image_folder(run.parent / "images", images_per_class=20)
    words = shlex.join(without_program(fine_tune)).replace("YOUR_FOLDER", str(run.parent / "images"))
    assert (
        call(words, SHORT, NO_WANDB, "--data.batch_size 8 --data.num_workers 0 --run.experiment tuned") == 0
    )
    assert "new classifier" in caplog.text
    all_but_the_classifier = len(shared.state_dict) - 2
    assert f"matched {all_but_the_classifier}, missing 2, unexpected 0, reshaped 0" in caplog.text
    tuned = load_checkpoint(only_run("tuned") / "checkpoints" / "last.ckpt").header
    assert tuned.class_names == ("cat", "dog", "fox")
    assert tuned.attention == "cbam"


def test_predict_writes_file_class_and_probability(tmp_path):
    call("fit", SMALL, SHORT, NO_WANDB)
    run = only_run()
    images = write_image_folder(tmp_path / "images", images_per_class=3)
    best = run / "checkpoints" / "best.ckpt"
    config = f"--config {run / 'config.yaml'} --ckpt_path {best} --run.experiment predicted"
    assert call("predict", config, NO_WANDB, f"--data.predict_path {images}") == 0
    with (only_run("predicted") / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(p) for p in sorted(images.rglob("*.jpg"))]
    names = load_checkpoint(best).header.class_names
    assert all(row["class"] in names and 0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_options_of_the_user_beat_the_checkpoint_which_fills_in_the_rest():
    arguments = "--model.attention_options.reduction 4 --model.label_smoothing 0.1 --model.optimizer.lr 0.02"
    call("fit", SMALL, SHORT, NO_WANDB, arguments)
    last = only_run() / "checkpoints" / "last.ckpt"
    data = "--data FashionMNIST --data.batch_size 64 --run.experiment resumed"
    options = "--trainer.max_epochs 2 --model.label_smoothing 0.2"
    short = SHORT.replace("--trainer.max_epochs 1", "")
    assert call("fit", data, short, NO_WANDB, options, f"--ckpt_path {last}") == 0
    resumed = yaml.safe_load((only_run("resumed") / "config.yaml").read_text())["model"]["init_args"]
    assert resumed["label_smoothing"] == 0.2
    assert resumed["network"] == "resnet20"
    assert resumed["attention_options"] == {"reduction": 4}
    assert resumed["optimizer"]["init_args"]["lr"] == 0.02
    state = torch.load(only_run("resumed") / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["loops"]["fit_loop"]["epoch_progress"]["total"]["completed"] == 2
    assert state["hyper_parameters"]["label_smoothing"] == 0.2


def test_several_configuration_files_compose_and_name_the_run(tmp_path):
    folder = tmp_path / "experiments" / "mine"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(
        "model: {class_path: Classifier, init_args: {network: resnet20, attention: se}}\n"
        "data: {class_path: FashionMNIST, init_args: {batch_size: 16}}\n"
    )
    (tmp_path / "b.yaml").write_text("model: {init_args: {attention: cbam}}\nwandb: {enabled: false}\n")
    assert call("fit", f"--config {folder / 'a.yaml'} --config b.yaml", SHORT) == 0
    config = yaml.safe_load((only_run("mine/a") / "config.yaml").read_text())
    assert config["model"]["init_args"]["attention"] == "cbam"
    assert config["model"]["init_args"]["network"] == "resnet20"
    assert config["data"]["init_args"]["batch_size"] == 16
    assert config["run"]["experiment"] == "mine/a"


def test_the_saved_configuration_repeats_the_run_bit_for_bit():
    call("fit", SMALL, SHORT, NO_WANDB, "--run.experiment first")
    first = only_run("first")
    assert call("fit", f"--config {first / 'config.yaml'} --run.experiment second") == 0
    states = [
        torch.load(only_run(name) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("first", "second")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert (first / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_two_processes_write_one_run(tmp_path):
    images = write_image_folder(tmp_path / "images", images_per_class=20)
    arguments = shlex.split(
        f"fit --data ImageFolder --data.root {images} --data.size_px 16 --data.batch_size 4 "
        f"--data.num_workers 0 --model.network resnet20 {SHORT} --wandb.enabled true "
        "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cbam_lightning", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Evaluate it again") == 1
    run = only_run()
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize("flag", ["--help", "fit --help"])
def test_help_names_the_options(flag, capsys):
    assert call(flag) == 0
    text = capsys.readouterr().out
    assert ("--ckpt_path" in text) if flag.startswith("fit") else ("predict" in text)
