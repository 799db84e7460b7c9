"""Every published detector can be built, and has the published number of parameters."""

from decimal import Decimal

import pytest
import torch

from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.published import PublishedDetector, published_detectors

ROWS = published_detectors()


def test_rows_are_those_of_the_tables():
    # https://arxiv.org/abs/1807.06521
    assert len(ROWS) == 6
    best = PublishedDetector(
        "VOC 2007 test", "stairnet_vgg16", "cbam", 21, Decimal("32.1"), Decimal("79.3"), None, None
    )
    assert ROWS[-1] == best
    coco = [row for row in ROWS if row.dataset == "MS-COCO"]
    assert [(row.attention, row.map, row.params_m) for row in coco] == [
        ("none", Decimal("29.1"), None),
        ("cbam", Decimal("30.8"), None),
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.detector}-{row.attention}")
def test_parameters_are_the_published_ones(row):
    with torch.device("meta"):
        detector = create_detector(row.detector, attention=row.attention, num_classes=row.num_classes)
    millions = Decimal(sum(p.numel() for p in detector.parameters())) / 1_000_000
    if row.params_m is None:
        assert (
            millions.quantize(Decimal("0.1"))
            == {"none": Decimal("48.1"), "cbam": Decimal("52.9")}[row.attention]
        )
    else:
        assert millions.quantize(Decimal("0.1")) == row.params_m
