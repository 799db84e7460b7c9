import contextlib
import io
import sys

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cbam_lightning.errors import UsageError
from cbam_lightning.metrics.average_precision import Detections, coco_average_precision
from tests.command import NO_WANDB, call
from tests.tasks.scenes import random_scenes


def pycocotools(detections, targets):
    """AP, AP50 and AP75 by COCO's own code."""
    xywh = [
        [(b[0], b[1], b[2] - b[0], b[3] - b[1]) for b in image["boxes"].tolist()]
        for image in [*targets, *detections]
    ]
    truth_boxes, found_boxes = xywh[: len(targets)], xywh[len(targets) :]
    annotations = [
        {"image_id": i + 1, "category_id": int(k), "bbox": list(b), "area": b[2] * b[3], "iscrowd": int(d)}
        for i, target in enumerate(targets)
        for b, k, d in zip(truth_boxes[i], target["labels"], target["difficult"], strict=True)
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    results = [
        {"image_id": i + 1, "category_id": int(k), "bbox": list(b), "score": float(s)}
        for i, found in enumerate(detections)
        for b, k, s in zip(found_boxes[i], found["labels"], found["scores"], strict=True)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i + 1} for i in range(len(targets))],
        "annotations": annotations,
        "categories": [{"id": k} for k in (1, 2, 3, 4)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


@pytest.mark.parametrize("seed", range(3))
def test_coco_average_precision_is_pycocotools(seed):
    detections, targets = random_scenes(seed)
    ours = coco_average_precision(detections, targets)
    assert [float(value) for value in ours.values()] == pytest.approx(
        pycocotools(detections, targets), abs=1e-6
    )
    assert 0.05 < ours["map"] < ours["map_50"] < 0.95


def test_images_count_once_and_in_the_order_of_the_data_set():
    detections, targets = random_scenes(0)
    for found in detections:
        found["scores"] = found["scores"].mul(4).round() / 4  # ties, which the order of the images decides
    once, shuffled = Detections(4), Detections(4)
    once.add(torch.arange(40), detections, targets)
    for i in [*torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist(), 3, 7]:
        shuffled.add(torch.tensor([i]), [detections[i]], [targets[i]])
    assert shuffled.average_precision() == once.average_precision()
    assert set(once.average_precision()) == {"map", "map_50", "map_75", "map_voc07"}
    once.clear()
    assert [float(value) for value in once.average_precision().values()] == [0, 0, 0, 0]


def test_nothing_found_is_0_and_everything_found_1():
    _, targets = random_scenes(1, num_images=6)
    nothing = [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}] * 6
    everything = [{**target, "scores": torch.ones(len(target["labels"]))} for target in targets]
    for found, value in ((nothing, 0.0), (everything, 1.0)):
        collected = Detections(4)
        collected.add(torch.arange(6), found, targets)
        assert [float(v) for v in collected.average_precision().values()] == pytest.approx([value] * 4)


def test_what_to_install_is_told_before_anything_is_trained(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    found, targets = random_scenes(0, num_images=2)
    with pytest.raises(UsageError, match=r"pip install 'cbam_lightning\[detection\]'"):
        coco_average_precision(found, targets)
    scenes = "--data FashionScenes --data.num_images 4 --data.num_test_images 2 --data.num_workers 0"
    network = "--model Detector --model.network ssd_resnet8 --trainer.num_sanity_val_steps 0"
    assert call(f"fit {scenes} {network}", NO_WANDB) == 2
    error = capsys.readouterr().err
    assert "pip install 'cbam_lightning[detection]'" in error
    assert "Epoch 0" not in error
