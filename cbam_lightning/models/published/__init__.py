"""What CBAM's paper publishes, beside what this package counts and measures.

``classification.csv`` and ``detection.csv`` are the tables of *CBAM: Convolutional Block Attention Module*
(https://arxiv.org/abs/1807.06521): errors and mAP in percent, parameters in millions, GFLOPs at 224 px.
"""

from __future__ import annotations

from collections.abc import Sequence

from cbam_lightning.models.published.classification_rows import PublishedRow, Row, published_rows, rows
from cbam_lightning.models.published.detection_rows import PublishedDetector, published_detectors
from cbam_lightning.models.published.detection_table import DetectorRow, detection_table, detector_rows
from cbam_lightning.models.published.rendering import check_format, render

__all__ = [
    "DetectorRow",
    "PublishedDetector",
    "PublishedRow",
    "Row",
    "detection_table",
    "detector_rows",
    "published_detectors",
    "published_rows",
    "render",
    "rows",
    "table",
]


def table(extra: Sequence[tuple[str, str]] = (), *, size_px: int = 224, format: str = "terminal") -> str:  # noqa: A002 - the name of the command's option
    """Return every published row beside ours, ready to print.

    Args:
        extra: Further pairs of a network's and an attention's name, as ``create_model`` takes them.
        size_px: Height and width of the images of ``extra``; the published rows are for 224.
        format: ``terminal``, ``csv``, ``markdown`` or ``json``.

    Raises:
        UsageError: An unknown format or name, or a network that does not take images of ``size_px``.
    """
    check_format(format)
    return render(rows(extra, size_px), format)
