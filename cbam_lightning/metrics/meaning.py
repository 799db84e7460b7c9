"""What the name of a metric says of its values: whether they are shares, and which are better."""

from __future__ import annotations

import re

_SHARE = re.compile(r"top_?\d+|map(_\d+)?|acc|.*accuracy", re.IGNORECASE)
_LOSS = re.compile(r".*loss", re.IGNORECASE)


def is_share(metric: str) -> bool:
    """Return whether a metric is a share of 1, such as ``test/top1``; losses and unknown metrics are not."""
    return _SHARE.fullmatch(_bare(metric)) is not None


def better_direction(metric: str) -> str:
    """Return which values of a metric are better: ``higher``, ``lower``, or nothing if it is not known."""
    if is_share(metric):
        return "higher"
    return "lower" if _LOSS.fullmatch(_bare(metric)) else ""


def _bare(metric: str) -> str:
    """Return a metric's name without the split: ``top1`` of ``test/top1``."""
    return metric.rpartition("/")[2]
