"""The tables of CBAM's paper, next to what this package counts.

``classification.csv`` and ``detection.csv`` are from *CBAM: Convolutional Block Attention Module*
(https://arxiv.org/abs/1807.06521): errors and mAP in percent, parameters in millions, GFLOPs at 224 px.
"""

from __future__ import annotations

from collections.abc import Sequence

from cbam_lightning.checks import check_choice
from cbam_lightning.models.published.classification_rows import (
    ClassificationRow,
    PublishedRow,
    published_rows,
    rows,
)
from cbam_lightning.models.published.detection_rows import PublishedDetector, published_detectors
from cbam_lightning.models.published.detection_table import DetectorRow, detection_table, detector_rows
from cbam_lightning.models.published.rendering import render
from cbam_lightning.tables import FORMATS

__all__ = [
    "ClassificationRow",
    "DetectorRow",
    "PublishedDetector",
    "PublishedRow",
    "detection_table",
    "detector_rows",
    "published_detectors",
    "published_rows",
    "render",
    "rows",
    "table",
]


def table(extra: Sequence[tuple[str, str]] = (), *, size_px: int = 224, format: str = "terminal") -> str:  # noqa: A002 - the name of the command's option
    """Return every published row next to ours, ready to print.

    Args:
        extra: Further pairs of network and attention, as for ``create_model``.
        size_px: Height and width of the images for ``extra``; the published rows are for 224.
        format: ``terminal``, ``csv``, ``markdown`` or ``json``.

    Raises:
        UsageError: An unknown format or name, or a network that does not take images of ``size_px``.
    """
    check_choice("format", format, FORMATS)
    return render(rows(extra, size_px), format)
