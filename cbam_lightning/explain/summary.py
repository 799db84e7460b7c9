"""Means over images with intervals for every network, and differences from the first network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cbam_lightning.explain.explanations import ExplainedImage
from cbam_lightning.tables import Table

# A fixed seed: the same images always have the same interval.
_BOOTSTRAP = {"confidence_level": 0.95, "n_resamples": 2_000, "method": "percentile", "batch": 100, "rng": 0}
# Name and meaning of each measure; all are fractions.
FIGURES = {
    "top1": "share of correctly classified images, of those with a label",
    "probability": "mean probability of the explained class",
    "deletion": "area under the deletion curve, smaller is better",
    "insertion": "area under the insertion curve, larger is better",
    "inside": "share of the map inside the mask, larger is better",
    "extent": "share of the image where the map is above half its maximum",
}

_HEADINGS = ("network", "mean", "95 % interval", "images")


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        mean: Mean of the measure.
        low: Lower end of the 95 % interval (bootstrap over images, percentiles, which stay in the range of
            the measure); ``None`` if all images have the same value, whose spread is not known.
        high: Upper end.
        images: Number of images that have the measure.
    """

    mean: float
    low: float | None
    high: float | None
    images: int


class Summary:
    """Measures of every network over the images so far; it keeps a few numbers for each image.

    Args:
        labels: One for each network.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._values: list[dict[str, list[float | None]]] = [{name: [] for name in FIGURES} for _ in labels]

    def add(self, image: ExplainedImage) -> None:
        """Add an image."""
        for values, explanation in zip(self._values, image.explanations, strict=True):
            top1 = float(explanation.predicted == image.label) if image.label >= 0 else None
            measures = {"top1": top1, **vars(explanation)}
            for name in FIGURES:
                values[name].append(measures[name])

    def estimates(self, network: int) -> dict[str, Estimate]:
        """Return the measures of a network that at least one image has."""
        return _estimates(self._arrays(network))

    def differences(self, network: int) -> dict[str, Estimate]:
        """Return network minus first network, image by image."""
        first = self._arrays(0)
        return _estimates({name: values - first[name] for name, values in self._arrays(network).items()})

    def table(self) -> str:
        """Return the measures of all networks, and the differences from the first, one measure after another.

        Every mean stands with the number of images that it is over.
        """
        first = self.labels[0]
        found = [(label, self.estimates(number), "") for number, label in enumerate(self.labels)]
        found += [
            (f"{label} - {first}", self.differences(number), "+")
            for number, label in enumerate(self.labels[1:], start=1)
        ]
        rows, groups = [], []
        for name, meaning in FIGURES.items():
            for label, estimates, sign in found:
                if name in estimates:
                    rows.append([label, *_cells(estimates[name], sign)])
                    groups.append(f"{name}: {meaning}")
        return Table(_HEADINGS, rows, groups=groups).terminal()

    def _arrays(self, network: int) -> dict[str, np.ndarray]:
        """Return the values of each measure, NaN for images without it."""
        return {name: np.array(values, dtype=float) for name, values in self._values[network].items()}


def _cells(estimate: Estimate, sign: str) -> list[str]:
    """Return mean, interval and number of images; the sign "+" marks positive numbers, as for differences."""
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{estimate.low:{sign}.3f} to {estimate.high:{sign}.3f}"
    return [f"{estimate.mean:{sign}.3f}", interval, str(estimate.images)]


def _estimates(values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    known = {name: array[~np.isnan(array)] for name, array in values.items()}
    return {name: _estimate(array) for name, array in known.items() if len(array)}


def _estimate(known: np.ndarray) -> Estimate:
    mean = float(known.mean())
    if len(set(known.tolist())) < 2:
        return Estimate(mean, None, None, len(known))
    low, high = stats.bootstrap((known,), np.mean, **_BOOTSTRAP).confidence_interval
    return Estimate(mean, float(low), float(high), len(known))
