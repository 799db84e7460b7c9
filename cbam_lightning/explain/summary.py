"""Means over images with intervals for every network, and differences from the first network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.tables import Table

CONFIDENCE = 0.95
_RESAMPLES = 2_000
# Name and meaning of each measure; all are fractions.
FIGURES = {
    "top1": "share of correctly classified images, of those with a label",
    "probability": "mean probability of the explained class",
    "deletion": "area under the deletion curve, smaller is better",
    "insertion": "area under the insertion curve, larger is better",
    "inside": "share of the map inside the mask, larger is better",
    "extent": "share of the image where the map is above half its maximum",
}


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        mean: Mean of the measure.
        low: Lower end of the 95 % interval (bootstrap over images, percentiles, which stay in the range of
            the measure); ``None`` for fewer than two images.
        high: Upper end.
        images: Number of images that have the measure.
    """

    mean: float
    low: float | None
    high: float | None
    images: int


@dataclass
class Summary:
    """Measures of every network over the images so far; it keeps a few numbers for each image.

    Attributes:
        labels: One for each network.
    """

    labels: Sequence[str]
    _values: list[dict[str, list[float]]] = field(init=False)

    def __post_init__(self) -> None:
        self._values = [{name: [] for name in FIGURES} for _ in self.labels]

    def add(self, image: ExplainedImage) -> None:
        """Add an image."""
        for values, explanation in zip(self._values, image.explanations, strict=True):
            for name, value in _measures(explanation, image.label).items():
                values[name].append(math.nan if value is None else value)

    def estimates(self, network: int) -> dict[str, Estimate]:
        """Return the measures of a network that at least one image has."""
        return _estimates({name: np.array(values) for name, values in self._values[network].items()})

    def differences(self, network: int) -> dict[str, Estimate]:
        """Return network minus first network, image by image."""
        own, first = self._values[network], self._values[0]
        return _estimates({name: np.subtract(own[name], first[name]) for name in FIGURES})

    def table(self) -> str:
        """Return the measures of all networks, and the differences from the first, with aligned columns."""
        names = [name for name in FIGURES if name in self.estimates(0)]
        rows = [_row(label, names, self.estimates(number)) for number, label in enumerate(self.labels)]
        rows += [
            _row(f"{label} - {self.labels[0]}", names, self.differences(number), "+")
            for number, label in enumerate(self.labels[1:], start=1)
        ]
        return Table(["network", *names], rows, left=range(len(names) + 1)).terminal()


def show(estimate: Estimate, sign: Literal["", "+"] = "") -> str:
    """Return an estimate as text, such as ``0.912 (0.897 to 0.927)``.

    Args:
        estimate: What to show.
        sign: "+" gives positive numbers a sign, as for differences.
    """
    text = f"{estimate.mean:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"


def _row(
    label: str, names: Sequence[str], estimates: Mapping[str, Estimate], sign: Literal["", "+"] = ""
) -> list[str]:
    return [label, *(show(estimates[name], sign) if name in estimates else "" for name in names)]


def _measures(explanation: Explanation, label: int) -> dict[str, float | None]:
    return {
        "top1": float(explanation.predicted == label) if label >= 0 else None,
        "probability": explanation.probability,
        "deletion": explanation.deletion,
        "insertion": explanation.insertion,
        "inside": explanation.inside,
        "extent": explanation.extent,
    }


def _estimates(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    known = {name: array[~np.isnan(array)] for name, array in values.items()}
    return {name: _estimate(array) for name, array in known.items() if len(array)}


def _estimate(known: np.ndarray) -> Estimate:
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, len(known))
    resampled = stats.bootstrap(
        (known,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        batch=100,
        rng=0,
    )
    low, high = resampled.confidence_interval
    return Estimate(mean, float(low), float(high), len(known))
