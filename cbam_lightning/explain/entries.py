"""An image and its looks as plain values: every number for JSON, and what the HTML report draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cbam_lightning.explain.gates import Gates
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.looking import Look, Looked
from cbam_lightning.explain.page import as_bytes, as_data_url

_MAX_SIDE = 28  # cells of a gate map in the HTML report, where its picture is no larger
_MAX_CHANNELS = 64  # of the curve of channel gates there
_DIGITS = 6


def as_record(looked: Looked, labels: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured of an image, for ``explained.json``."""
    label = looked.picture.label
    return {
        "image": looked.picture.name,
        "class": class_names[label] if label >= 0 else None,
        "networks": {
            name: {
                "target": class_names[look.target],
                "probability": look.probability,
                "predicted": class_names[look.predicted],
                "confidence": look.confidence,
                "deletion": look.deletion,
                "insertion": look.insertion,
                "inside": look.inside,
                "extent": look.extent,
                "map": _rounded(look.map),
                "gates": {gates.module: _described(gates) for gates in look.gates},
            }
            for name, look in zip(labels, looked.looks, strict=True)
        },
    }


def _described(gates: Gates) -> dict[str, Any]:
    kinds = {"channel": gates.channel, "spatial": gates.spatial}
    return {
        kind: {
            "mean": round(float(values.mean()), _DIGITS),
            "sd": round(float(values.std(correction=0)), _DIGITS),
            "min": round(float(values.min()), _DIGITS),
            "max": round(float(values.max()), _DIGITS),
        }
        for kind, values in kinds.items()
        if values is not None
    }


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, _DIGITS) for value in row] for row in values.tolist()]


def as_item(looked: Looked) -> dict[str, Any]:
    """Return what the HTML report shows of an image."""
    return {
        "name": looked.picture.name,
        "label": looked.picture.label,
        "image": as_data_url(looked.picture.image),
        "looks": [_shown_look(look) for look in looked.looks],
    }


def _shown_look(look: Look) -> dict[str, Any]:
    names = ("probability", "confidence", "deletion", "insertion", "inside", "extent")
    figures = {name: getattr(look, name) for name in names}
    return {
        "target": look.target,
        "predicted": look.predicted,
        **{name: None if value is None else round(value, 4) for name, value in figures.items()},
        "map": _grid(look.map, torch.zeros(())),
        "gates": [_shown_gates(gates) for gates in look.gates],
    }


def _shown_gates(gates: Gates) -> dict[str, Any]:
    shown: dict[str, Any] = {"module": gates.module}
    if gates.channel is not None:
        values = gates.channel.sort(descending=True).values
        kept = torch.linspace(0, len(values) - 1, min(len(values), _MAX_CHANNELS)).round().long()
        shown["channel"] = _grid(values[kept][None], values.min())
    if gates.spatial is not None:
        size = [min(side, _MAX_SIDE) for side in gates.spatial.shape]
        shown["spatial"] = _grid(enlarge(gates.spatial[None], size)[0], gates.spatial.min())
    return shown


def _grid(values: Tensor, lowest: Tensor) -> dict[str, Any]:
    """Return values as bytes from their lowest to their largest."""
    height, width = values.shape
    low, high = float(lowest), float(values.max())
    return {
        "height": height,
        "width": width,
        "low": round(low, 4),
        "high": round(high, 4),
        "bytes": as_bytes(values - low, high - low),
    }
