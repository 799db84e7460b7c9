"""An explained image as plain values: every number for JSON, and what the HTML report draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.gates import Gates
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.html_page import as_bytes, as_data_url

_MAX_SIDE = 28  # cells of a gate map in the HTML report, which shows it no larger
_MAX_CHANNELS = 64  # points of a curve of channel gates in the HTML report
_DIGITS = 6


def as_record(image: ExplainedImage, labels: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured on an image, for ``explained.json``."""
    return {
        "image": image.name,
        "class": class_names[image.label] if image.label >= 0 else None,
        "networks": {
            label: _measured(explanation, class_names)
            for label, explanation in zip(labels, image.explanations, strict=True)
        },
    }


def _measured(explanation: Explanation, class_names: Sequence[str]) -> dict[str, Any]:
    return vars(explanation) | {
        "target": class_names[explanation.target],
        "predicted": class_names[explanation.predicted],
        "map": [[round(value, _DIGITS) for value in row] for row in explanation.map.tolist()],
        "gates": {gates.module: _statistics(gates) for gates in explanation.gates},
    }


def _statistics(gates: Gates) -> dict[str, dict[str, float]]:
    return {
        kind: {
            "mean": round(float(values.mean()), _DIGITS),
            "sd": round(float(values.std(correction=0)), _DIGITS),
            "min": round(float(values.min()), _DIGITS),
            "max": round(float(values.max()), _DIGITS),
        }
        for kind, values in (("channel", gates.channel), ("spatial", gates.spatial))
        if values is not None
    }


def as_item(image: ExplainedImage) -> dict[str, Any]:
    """Return what the HTML report shows of an image."""
    return {
        "name": image.name,
        "label": image.label,
        "image": as_data_url(image.image),
        "explanations": [
            vars(explanation)
            | {
                "map": _grid(explanation.map, 0.0),
                "gates": [_drawn(gates) for gates in explanation.gates],
            }
            for explanation in image.explanations
        ],
    }


def _drawn(gates: Gates) -> dict[str, Any]:
    drawn: dict[str, Any] = {"module": gates.module}
    if gates.channel is not None:
        values = gates.channel.sort(descending=True).values
        kept = torch.linspace(0, len(values) - 1, min(len(values), _MAX_CHANNELS)).round().long()
        drawn["channel"] = _grid(values[kept][None], float(values.min()))
    if gates.spatial is not None:
        size = [min(side, _MAX_SIDE) for side in gates.spatial.shape]
        drawn["spatial"] = _grid(enlarge(gates.spatial[None], size)[0], float(gates.spatial.min()))
    return drawn


def _grid(values: Tensor, low: float) -> dict[str, Any]:
    """Return values (h, w) as bytes, scaled from the lowest to the largest value."""
    height, width = values.shape
    high = float(values.max())
    encoded = as_bytes(values - low, high - low)
    return {"height": height, "width": width, "low": round(low, 4), "high": round(high, 4), "bytes": encoded}
