"""Every published detector can be built, and has the published number of parameters."""

import csv
import io
import json
from decimal import Decimal

import pytest

from cbam_lightning.errors import UsageError
from cbam_lightning.models.published.classification_rows import DIFFERS, NO_FIGURE, REPRODUCED
from cbam_lightning.models.published.detection_table import (
    DetectorRow,
    PublishedDetector,
    detection_table,
    detector_rows,
    published_detectors,
)

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


def test_the_parameters_of_every_row_are_the_published_ones():
    # https://arxiv.org/abs/1807.06521 prints none for COCO
    rows = detector_rows()
    assert [row.params for row in rows] == [48079889, 52860901, 26515936, 32005600, 32056384, 32056984]
    assert [row.status for row in rows] == [NO_FIGURE] * 2 + [REPRODUCED] * 4


def test_a_row_whose_digits_differ_is_not_reproduced():
    assert DetectorRow(ROWS[2], 26_449_999).status == DIFFERS
    assert DetectorRow(ROWS[2], 26_450_001).status == REPRODUCED


def test_all_formats_say_the_same():
    records = json.loads(detection_table("json"))
    assert records[-1] == {
        "dataset": "VOC 2007 test",
        "detector": "stairnet_vgg16",
        "attention": "cbam",
        "num_classes": 21,
        "params": 32056984,
        "published_params_m": 32.1,
        "published_map_50": 79.3,
        "published_map_75": None,
        "published_map": None,
        "status": "reproduced",
    }
    rows = list(csv.DictReader(io.StringIO(detection_table("csv"))))
    assert [row["params"] for row in rows] == [str(record["params"]) for record in records]
    for text in (detection_table(), detection_table("markdown")):
        assert all(f"{record['params']:,}" in text for record in records)
        assert "biases of plain BatchNorms" in " ".join(text.split())
    with pytest.raises(UsageError, match="markdown"):
        detection_table("markdwn")
