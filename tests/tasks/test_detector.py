"""A detector from the command: trained, tested, resumed, shared and used, on files of both formats."""

import csv
import json
import pickle
import signal
from pathlib import Path

import pytest

from cbam_lightning.data import FashionScenes
from cbam_lightning.data.detection.scene_files import write_scenes
from cbam_lightning.models.detection import create_detector
from cbam_lightning.tasks import Detector
from tests.callbacks.resume.interrupting import SendSignal, at
from tests.command import NO_WANDB, call

SCENES = {"num_images": 10, "num_test_images": 5, "size_px": 64, "num_garments": (1, 4)}
NAMES = ",".join(json.dumps(name) for name in FashionScenes.class_names)
QUIET = f"--trainer.enable_progress_bar false --trainer.enable_model_summary false {NO_WANDB}"
STEPS = "--data.batch_size 2 --data.num_workers 0 --trainer.log_every_n_steps 1 --model.schedule Constant"
SHORT = f"{STEPS} {QUIET}"
TINY = '{{"backbone_options": {{"depths": [1,1,1{0}], "widths": [8,8,16{1}]}}{2}}}'
SMALL = TINY.format("", "", ', "size_px": 64')
LARGE = TINY.format(",1", ",16", ', "min_size": 64, "max_size": 64')
FPN = LARGE[:-1] + ', "pyramid_channels": 16, "representation_size": 32}'
DETECTORS = {
    "ssd": f"--model.network ssd_resnet20 --model.attention se --model.network_options '{SMALL}'",
    "stairnet": f"--model.network stairnet_resnet20 --model.attention cbam --model.network_options '{SMALL}'",
    "c4": f"--model.network faster_rcnn_resnet18_c4 --model.attention cbam --model.network_options '{LARGE}'",
    "fpn": f"--model.network faster_rcnn_resnet18_fpn --model.attention se --model.network_options '{FPN}'",
}
# VGG16 has no BatchNorm, and diverges at SSD's own rate without weights of ImageNet
REAL_SIZE = {
    f"{network}-{attention}": f"--model.network {network}_vgg16 --model.attention {attention} "
    "--model.optimizer.lr 1e-5"
    for network, attention in [
        *[("ssd300", "none"), ("stairnet", "none"), ("stairnet", "se"), ("stairnet", "cbam")]
    ]
}
COMMANDS = [
    *(pytest.param(options, id=name) for name, options in DETECTORS.items()),
    *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in REAL_SIZE.items()),
]


@pytest.fixture(scope="module", params=["voc", "coco"])
def data(request, tmp_path_factory):
    """The options of the data module that reads scenes written in a format."""
    root = write_scenes(tmp_path_factory.mktemp(request.param) / "scenes", request.param, **SCENES)
    if request.param == "coco":
        return f"--data CocoDetection --data.root {root} --data.val_fraction 0.3"
    return (
        f"--data VOCDetection --data.root {root} --data.years [2007] --data.class_names '[{NAMES}]' "
        "--data.size_px 64 --data.val_fraction 0.3"
    )


def logged(run, metric):
    with Path(run, "metrics.csv").open(newline="") as file:
        return [row[metric] for row in csv.DictReader(file) if row.get(metric)]


def results(run):
    return json.loads(Path(run, "results.json").read_text())["metrics"]


@pytest.mark.parametrize("options", COMMANDS)
def test_it_trains_resumes_exports_and_detects(data, options):
    fit = f"fit {data} --model Detector {options} {SHORT}"
    assert call(fit, "--trainer.max_epochs 2 --run.name whole") == 0
    # broken off in the middle of an epoch of three steps
    stop = at(SendSignal, 0, 1)
    assert call(fit, "--trainer.max_epochs 2 --run.name broken", stop) == 128 + signal.SIGTERM
    assert len(logged(Path("runs/default/broken"), "train/loss")) == 2
    assert call("resume runs/default/broken") == 0
    whole, broken = (Path("runs/default", name) for name in ("whole", "broken"))
    losses = logged(whole, "train/loss")
    assert len(losses) == 6
    assert logged(broken, "train/loss") == losses
    assert all(float(loss) > 0 for loss in losses)
    assert set(results(whole)) == {f"test/{name}" for name in ("map", "map_50", "map_75", "map_voc07")}

    assert call(f"weights export {whole}/checkpoints/best.ckpt shared.safetensors") == 0
    test = f"test --config {whole}/config.yaml {NO_WANDB}"
    assert call(test, "--model.weights shared.safetensors") == 0
    assert results(newest()) == results(whole)

    predict = f"predict --config {whole}/config.yaml --ckpt_path {whole}/checkpoints/best.ckpt {NO_WANDB}"
    assert call(predict) == 0
    found = json.loads((newest() / "detections.json").read_text())
    detector = create_detector(weights="shared.safetensors").eval()
    assert detector.header.class_names == FashionScenes.class_names
    images = {box["image_id"] for box in found}
    assert len(images) <= SCENES["num_test_images"]
    assert all(1 <= box["category_id"] <= 10 and min(box["bbox"][2:]) >= 0 for box in found)


def test_a_shared_detector_needs_no_backbone_that_its_run_started_from():
    scenes = "--data FashionScenes --data.in_channels 1 --data.num_images 6 --data.num_test_images 4"
    network = "--model Detector --model.network ssd_resnet20 --model.backbone_weights resnet20.fashion_mnist"
    assert call(f"fit {scenes} {network} {SHORT} --trainer.max_epochs 1 --run.name one") == 0
    run = Path("runs/default/one")
    assert call(f"weights export {run}/checkpoints/best.ckpt shared.safetensors") == 0
    assert call(f"test --config {run}/config.yaml --model.weights shared.safetensors {NO_WANDB}") == 0
    assert results(newest()) == results(run)


def newest():
    return max(Path("runs/default").iterdir(), key=lambda path: path.stat().st_mtime)


def test_a_detector_with_the_default_optimiser_can_be_pickled():
    module = Detector("ssd_resnet20", network_options=json.loads(SMALL), num_classes=2, in_channels=1)
    other = pickle.loads(pickle.dumps(module))
    assert other.optimizer is module.optimizer is Detector.default_optimizer
