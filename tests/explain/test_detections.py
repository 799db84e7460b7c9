"""`explain` with detectors: every box as JSON, and the figure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbam_lightning.data import FashionScenes
from cbam_lightning.data.detection.scene_files import write_scenes
from cbam_lightning.explain.detections import ImageDetections, NamedDetector, draw_columns
from cbam_lightning.models.detection import create_detector
from cbam_lightning.weights import save_checkpoint
from tests.command import call
from tests.models.detection.scenes import small_ssd

NAMES = FashionScenes.class_names


@pytest.fixture
def detectors():
    """Write two untrained detectors to files, and return them by name."""
    found = {}
    for seed, (name, attention) in enumerate({"plain": "none", "cbam": "cbam"}.items()):
        torch.manual_seed(seed)
        network = small_ssd("stairnet", attention=attention, num_classes=11, class_names=NAMES)
        save_checkpoint(f"{name}.safetensors", network.state_dict(), network.header)
        found[name] = create_detector(weights=f"{name}.safetensors").eval()
    return found


def recorded(folder):
    return json.loads(Path(folder, "detections.json").read_text())


def boxes_of(entries):
    return torch.tensor([entry["box"] for entry in entries]).reshape(-1, 4)


def test_every_box_of_every_detector_is_written(detectors, capsys):
    words = (
        "explain plain.safetensors mine=cbam.safetensors --data FashionScenes --limit 3 --rows 2 --out out"
    )
    assert call(words) == 0
    assert "Written: out/figure.png, out/detections.json" in capsys.readouterr().out
    scenes = FashionScenes(size_px=112, augmentation="none").test_set
    images = recorded("out")
    assert [one["image"] for one in images] == [scenes.name(i) for i in (0, 66, 133)]
    batch = scenes.__getitems__([0, 66, 133]).batch
    pixels = [image / 255 for image in batch.images]
    for label, network in zip(("plain.safetensors", "mine"), detectors.values(), strict=True):
        with torch.no_grad():
            found = network(pixels)
        for one, expected in zip(images, found, strict=True):
            written = one["networks"][label]
            torch.testing.assert_close(boxes_of(written), expected["boxes"], atol=1e-3, rtol=0)
            assert [box["class"] for box in written] == [NAMES[i - 1] for i in expected["labels"].tolist()]
    for one, target in zip(images, batch.targets, strict=True):
        assert [box["box"] for box in one["objects"]] == target["boxes"].tolist()
        assert [box["difficult"] for box in one["objects"]] == target["difficult"].tolist()
    with Image.open("out/figure.png") as picture:
        assert picture.width > picture.height > 500  # three columns, two rows
    assert call(words) == 2
    assert "out/figure.png" in capsys.readouterr().err


def test_files_of_any_size_and_both_formats_are_looked_at(detectors):
    objects = {}
    for format_, module in {"voc": "VOCDetection", "coco": "CocoDetection"}.items():
        root = write_scenes(Path(format_), format_, num_images=2, num_test_images=3, size_px=64)
        assert call(f"explain plain.safetensors --data {module} --root {root} --out out_{format_}") == 0
        objects[format_] = [boxes_of(one["objects"]) for one in recorded(f"out_{format_}")]
    torch.testing.assert_close(objects["voc"], objects["coco"])
    Path("photos").mkdir()
    chance = np.random.default_rng(0)
    for name, size in {"a": (70, 40), "b": (30, 90)}.items():
        Image.fromarray(chance.integers(0, 255, (*size, 3), dtype=np.uint8)).save(f"photos/{name}.png")
    assert call("explain plain.safetensors --images photos --out out") == 0
    first, second = recorded("out")
    assert (first["image"], first["objects"]) == ("photos/a.png", [])
    boxes = boxes_of(second["networks"]["plain.safetensors"])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 90
    assert boxes[:, 3].max() <= 30


def test_only_sure_detections_are_drawn(detectors):
    found = {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [1, 1, 6, 6]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.3]),
    }
    objects = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([10])}
    named = [NamedDetector("$a_1$", detectors["plain"])]
    figure = draw_columns([ImageDetections("x", torch.zeros(1, 8, 8), objects, (found,))], named)
    truth, drawn = figure.axes
    assert [text.get_text() for text in truth.texts] == ["Ankle boot"]
    assert [text.get_text() for text in drawn.texts] == ["T-shirt/top 90%"]
    assert drawn.get_title() == "$a_1$"


MISTAKES = {
    "plain.safetensors --data FashionScenes --layer head": "--layer is for classifiers",
    "plain.safetensors --data FashionMNIST": "unknown data module 'FashionMNIST'",
    "plain.safetensors --data VOCDetection --root nowhere": "nowhere",
    "plain.safetensors cbam.safetensors --images nowhere": "nowhere does not exist",
    "plain.safetensors plain.safetensors --data FashionScenes": "two networks are called",
    "plain.safetensors resnet20.fashion_mnist --data FashionScenes": "which is not a detector",
    "resnet20.fashion_mnist plain.safetensors --data FashionMNIST": "plain.safetensors is a detector",
    "plain.safetensors --images damaged": "none of the 1 images can be read; damaged/a.jpg: not an image",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_in_a_line(words, detectors, capsys):
    Path("damaged").mkdir()
    Path("damaged/a.jpg").write_bytes(b"no image")
    assert call(f"explain {words} --out out") == 2
    error = capsys.readouterr().err
    assert MISTAKES[words] in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert not Path("out/figure.png").exists()
