import math

import numpy as np
import pytest
import torch

from cbam_lightning.metrics.voc_ap import voc_average_precision
from tests.tasks.scenes import random_scenes


def kit(detections, targets, label, rule):
    """VOCevaldet.m, line by line, for one class; boxes as 1-based pixels, both corners inside."""
    ids, confidence, boxes = [], [], []
    for image, found in enumerate(detections):
        for box, score, name in zip(*(found[k].tolist() for k in ("boxes", "scores", "labels")), strict=True):
            if name == label:
                ids.append(image)
                confidence.append(score)
                boxes.append([box[0] + 1, box[1] + 1, box[2], box[3]])
    truth, npos = {}, 0
    for image, target in enumerate(targets):
        own = [i for i, name in enumerate(target["labels"].tolist()) if name == label]
        corners = [[b[0] + 1, b[1] + 1, b[2], b[3]] for b in (target["boxes"][i].tolist() for i in own)]
        difficult = [bool(target["difficult"][i]) for i in own]
        truth[image] = {"BB": corners, "diff": difficult, "det": [False] * len(own)}
        npos += sum(not d for d in difficult)
    if npos == 0:
        return math.nan
    order = sorted(range(len(ids)), key=lambda i: -confidence[i])
    tp, fp = [], []
    for d in order:
        gt, bb = truth[ids[d]], boxes[d]
        ovmax, jmax = -math.inf, -1
        for j, bbgt in enumerate(gt["BB"]):
            bi = [max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])]
            iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                ua += (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        hit = false = 0
        if ovmax >= 0.5:
            if not gt["diff"][jmax]:
                hit, false = (0, 1) if gt["det"][jmax] else (1, 0)
                gt["det"][jmax] = True
        else:
            false = 1
        tp.append(hit)
        fp.append(false)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    rec, prec = tp / npos, tp / np.maximum(tp + fp, 1)
    if rule == "2007":
        return sum(max(prec[rec >= t / 10], default=0.0) for t in range(11)) / 11
    mrec, mpre = np.concatenate([[0], rec, [1]]), np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    steps = np.where(mrec[1:] != mrec[:-1])[0] + 1
    return float(sum((mrec[steps] - mrec[steps - 1]) * mpre[steps]))


@pytest.mark.parametrize("rule", ["2007", "2010"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_kits(seed, rule):
    detections, targets = random_scenes(seed)
    expected = [kit(detections, targets, label, rule) for label in (1, 2, 3, 4)]
    ours = voc_average_precision(detections, targets, 4, rule)
    assert ours.tolist() == pytest.approx(expected, abs=1e-12)
    assert 0.1 < ours.mean() < 0.9


def image(boxes, labels, **more):
    values = {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": torch.tensor(labels).long()}
    return values | {name: torch.tensor(value) for name, value in more.items()}


def test_a_detection_of_an_object_that_is_taken_is_false_however_well_it_fits_another():
    # IoU with the first object 100/120, with the second 80/120
    truth = image([[0, 0, 10, 10], [2, 0, 12, 10]], [1, 1])
    found = image([[0, 0, 10, 10], [0, 0, 10, 12]], [1, 1], scores=[0.9, 0.8])
    assert voc_average_precision([found], [truth], 1, "2010").item() == pytest.approx(0.5)


def test_what_is_difficult_is_neither_missed_nor_false():
    truth = image([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1], difficult=[True, False])
    found = image([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [1, 1, 1], scores=[0.9, 0.8, 0.7])
    assert voc_average_precision([found], [truth], 1).item() == 1


def test_a_class_without_objects_has_no_number_and_one_without_detections_nothing():
    values = voc_average_precision([image([], [], scores=[])], [image([[0, 0, 1, 1]], [2])], 3)
    assert values[1] == 0
    assert values[[0, 2]].isnan().all()
    assert voc_average_precision([], [], 2).isnan().all()
