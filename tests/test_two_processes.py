"""Two processes reproduce the results of one, with the commands of the README."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cbam_lightning.optim import WarmupCosine
from tests.callbacks.resume.interrupting import SendSignal, at
from tests.data.generate import write_image_folder
from tests.processes import start, wait

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "cbam_lightning"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "cbam_lightning"]
TRAINING = (
    "fit --data FashionMNIST --data.global_batch_size 32 --model.network resnet20 --model.attention cbam "
    "--model.network_options.depths [1,1,1] --model.network_options.widths [8,16,32] "
    "--model.optimizer SGD --model.optimizer.lr 0.01 --model.optimizer.momentum 0.9 "
    "--trainer.max_epochs 2 --trainer.limit_train_batches 10 --trainer.limit_val_batches 3 "
    "--trainer.limit_test_batches 3 --trainer.sync_batchnorm true "
    # in float32 a ReLU near 0 flips sooner or later, just as when one process permutes its images
    "--trainer.precision 64-true "
)
QUIET = (
    "--trainer.accelerator cpu --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --wandb.enabled false"
)
DEVICES = "--trainer.strategy ddp --trainer.devices 2"


def run_alone(name, *options):
    """Run one process, which has everything imported already."""
    process = start(" ".join([*options, QUIET]).split(), f"{name}.log")
    assert wait(process) == 0, (name, Path(f"{name}.log").read_text()[-4000:])


def run(name, launcher, *options):
    words = " ".join([*options, QUIET]).split()
    done = subprocess.run(
        [*launcher, *words],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, (name, done.stderr[-4000:])
    return done


def logged(name, metric):
    with (Path("runs/default") / name / "metrics.csv").open(newline="") as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]


@pytest.mark.parametrize("launcher", [COMMAND, pytest.param(TORCHRUN, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(launcher):
    run_alone("one", TRAINING, "--run.name one")
    run("two", launcher, TRAINING, DEVICES, "--run.name two")
    assert logged("two", "train/loss") == pytest.approx(logged("one", "train/loss"), abs=1e-12)
    assert len(logged("two", "train/loss")) == 20
    assert len(logged("two", "train/images_per_s")) == len(logged("two", "train/top1"))
    assert logged("two", "val/loss") == pytest.approx(logged("one", "val/loss"), abs=1e-6)
    for metric in ("train/top1", "val/top1", "val/top5", "test/top1"):
        assert logged("two", metric) == logged("one", metric), metric
    # one directory per run, made by the first process
    assert sorted(path.name for path in Path("runs/default").iterdir()) == ["one", "two"]
    assert sorted(path.name for path in Path("runs/default/two/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_one_process_goes_on_as_two_in_the_middle_of_an_epoch(tmp_path):
    """24 images: three steps of 4, then the other 12 in two steps of 6, then steps of 8."""
    folder = write_image_folder(tmp_path / "pets")
    images = f"fit --data ImageFolder --data.root {folder} --data.batch_size 4 --data.size_px 24"
    network = "--model.network resnet20 --model.network_options.depths [1,1,1] --data.num_workers 0"
    rate = "--model.optimizer SGD --model.optimizer.lr 0.1 --trainer.max_epochs 3 --run.name one"
    words = " ".join([images, network, rate, at(SendSignal, 1, 2), QUIET]).split()
    assert wait(start(words, "one.log")) == 143
    run("two", COMMAND, "resume runs/default/one", DEVICES)
    places = [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 7 / 6, 8 / 6, 9 / 6, 7 / 4, 2, 7 / 3, 8 / 3]
    expected = [0.1 * WarmupCosine().factor(place, 3) for place in places]
    assert logged("one", "lr-SGD") == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_two_processes_unfreeze_as_one():
    unfreezing = "--trainer.callbacks+=GradualUnfreezing --trainer.limit_train_batches 4"
    run_alone("one", TRAINING, unfreezing, "--run.name one")
    devices = DEVICES.replace("ddp", "ddp_find_unused_parameters_true")
    run("two", COMMAND, TRAINING, unfreezing, devices, "--run.name two")
    assert logged("two", "train/loss") == pytest.approx(logged("one", "train/loss"), abs=1e-12)
    assert len(logged("two", "train/loss")) == 8
    states = [
        torch.load(f"runs/default/{n}/checkpoints/last.ckpt", weights_only=True) for n in ("one", "two")
    ]
    first, second = (state["state_dict"] for state in states)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-9, msg=key)
        # two epochs do not reach the first two stages
        if key.startswith(("network.layer1", "network.layer2")) and "num_batches" in key:
            assert second[key] == 0, key


def test_a_test_counts_every_image_once_on_however_many_processes():
    weights = "--model.weights resnet20.fashion_mnist --data FashionMNIST --data.batch_size 37"
    found = {}
    for processes in (1, 3):
        options = ("test", weights, f"--run.experiment {processes}")
        if processes == 1:
            run_alone("1", *options)
        else:
            run(str(processes), COMMAND, *options, f"--trainer.strategy ddp --trainer.devices {processes}")
        (path,) = Path("runs", str(processes)).glob("*/results.json")
        found[processes] = json.loads(path.read_text())["metrics"]
    assert found[1] == found[3]
    # each of the 2,000 images counts once, so accuracy is a multiple of 1/2000
    assert found[1]["test/top1"] * 2000 == pytest.approx(round(found[1]["test/top1"] * 2000), abs=1e-3)
    assert found[1]["test/top1"] > 0.9


def test_predictions_of_processes_that_others_have_started_are_in_one_file():
    options = "predict --model.weights resnet20.fashion_mnist --data FashionMNIST --data.batch_size 500"
    run("predict", TORCHRUN, options, DEVICES)
    (path,) = Path("runs/default").iterdir()
    names = [line.split(",")[0] for line in (path / "predictions.csv").read_text().splitlines()[1:]]
    assert sorted(names) == [f"fashion_mnist/test/{i:05d}" for i in range(2000)]


@pytest.mark.slow
def test_average_precision_is_the_same_on_however_many_processes():
    scenes = (
        "--data FashionScenes --data.num_images 240 --data.num_test_images 31 --data.num_workers 0 "
        "--data.size_px 64 --model.network_options.size_px 64"
    )
    network = "--model Detector --model.network stairnet_resnet8 --model.attention cbam"
    training = "--trainer.max_epochs 3 --data.batch_size 8 --run.name one --trainer.limit_val_batches 2"
    run(
        "fit",
        COMMAND,
        "fit",
        scenes,
        network,
        "--model.optimizer.lr 0.03 --model.schedule Constant",
        training,
    )
    checkpoint = "runs/default/one/checkpoints/best.ckpt"
    words = f"--config runs/default/one/config.yaml --ckpt_path {checkpoint} --data.batch_size 4"
    found, boxes = {}, {}
    for processes in (1, 3):
        devices = f"--trainer.strategy ddp --trainer.devices {processes}" if processes > 1 else ""
        for command, kept in (("test", found), ("predict", boxes)):
            run(str(processes), COMMAND, command, words, devices, f"--run.experiment {command}{processes}")
            (folder,) = Path("runs", f"{command}{processes}").iterdir()
            file = folder / ("results.json" if command == "test" else "detections.json")
            kept[processes] = json.loads(file.read_text())
    scores = found[1]["metrics"]
    assert set(scores) == {f"test/{name}" for name in ("map", "map_50", "map_75", "map_voc07")}
    assert found[3]["metrics"] == scores
    assert scores["test/map_50"] > 0.01
    names = [[(box["file_name"], -box["score"]) for box in boxes[processes]] for processes in (1, 3)]
    assert sorted(names[0]) == sorted(names[1])
