"""What a set of images says about every network: means with intervals, and differences from the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.tables import aligned

CONFIDENCE = 0.95
_RESAMPLES = 2_000
# Name of each figure, and what it is; all are fractions.
FIGURES = {
    "top1": "share of the labelled images that are named rightly",
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
        mean: Of the figure.
        low: Lower end of the 95 % interval (bootstrap over images, percentiles, which stay within what a
            figure can be); ``None`` for fewer than two images.
        high: Upper end.
        images: How many images have the figure.
    """

    mean: float
    low: float | None
    high: float | None
    images: int


@dataclass
class Summary:
    """Figures of every network over the images so far; a few numbers an image are kept.

    Attributes:
        labels: Of the networks.
    """

    labels: Sequence[str]
    _values: list[dict[str, list[float]]] = field(init=False)

    def __post_init__(self) -> None:
        self._values = [{name: [] for name in FIGURES} for _ in self.labels]

    def add(self, image: ExplainedImage) -> None:
        """Take in an image."""
        for values, explanation in zip(self._values, image.explanations, strict=True):
            for name, value in _figures(explanation, image.label).items():
                values[name].append(math.nan if value is None else value)

    def estimates(self, network: int) -> dict[str, Estimate]:
        """Return the figures of a network that at least one image has."""
        found = {name: _estimate(values) for name, values in self._values[network].items()}
        return {name: estimate for name, estimate in found.items() if estimate}

    def differences(self, network: int) -> dict[str, Estimate]:
        """Return network minus first network, image by image."""
        ours, first = self._values[network], self._values[0]
        found = {
            name: _estimate([a - b for a, b in zip(ours[name], first[name], strict=True)]) for name in FIGURES
        }
        return {name: estimate for name, estimate in found.items() if estimate}

    def table(self) -> str:
        """Return the figures of all networks, and the differences from the first, with aligned columns."""
        names = [name for name in FIGURES if name in self.estimates(0)]
        lines = [["network", *names]]
        for number, label in enumerate(self.labels):
            known = self.estimates(number)
            lines.append([label, *(show(known[name]) if name in known else "" for name in names)])
        for number, label in enumerate(self.labels[1:], start=1):
            known = self.differences(number)
            shown = (show(known[name], "+") if name in known else "" for name in names)
            lines.append([f"{label} - {self.labels[0]}", *shown])
        return "\n".join(aligned(lines, left=range(len(lines[0]))))


def show(estimate: Estimate, sign: Literal["", "+"] = "") -> str:
    """Return an estimate for people, such as ``0.912 (0.897 to 0.927)``.

    Args:
        estimate: What to show.
        sign: "+" gives positive numbers a sign, too, as differences have.
    """
    text = f"{estimate.mean:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"


def _figures(explanation: Explanation, label: int) -> dict[str, float | None]:
    return {
        "top1": float(explanation.predicted == label) if label >= 0 else None,
        "probability": explanation.probability,
        "deletion": explanation.deletion,
        "insertion": explanation.insertion,
        "inside": explanation.inside,
        "extent": explanation.extent,
    }


def _estimate(values: Sequence[float]) -> Estimate | None:
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return None
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
