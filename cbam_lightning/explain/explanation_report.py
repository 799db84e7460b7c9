"""The files of ``cbam-lightning explain``: JSON with every number, an HTML report, and the paper's figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import ExplainedImage, Explanation
from cbam_lightning.explain.gates import Gates
from cbam_lightning.explain.gradcam import enlarge
from cbam_lightning.explain.gradcam_figure import COLOUR_MAP, draw_figure
from cbam_lightning.explain.html_page import as_bytes, as_data_url, atomic_text, colour_map, write_page
from cbam_lightning.explain.networks import ExplainedNetwork
from cbam_lightning.explain.summary import FIGURES, Summary
from cbam_lightning.files import atomic_write, check_unwritten

FILES = ("figure.png", "report.html", "explained.json")
_MAX_SIDE = 28  # cells of a gate map in the HTML report, which shows it no larger
_MAX_CHANNELS = 64  # points of a curve of channel gates in the HTML report
_DIGITS = 6  # of the numbers in JSON


def write_report(
    networks: Sequence[ExplainedNetwork],
    images: Iterable[ExplainedImage],
    folder: str | Path,
    rows: int = 8,
    skipped: Mapping[str, str] | None = None,
) -> tuple[list[Path], Summary]:
    """Write ``figure.png``, ``report.html`` and ``explained.json``; if interrupted, leave none of them.

    Memory holds one image at a time, the images of the figure, and a few numbers per image.

    Args:
        networks: The explained networks.
        images: Any number of images, explained by every network.
        folder: Where to write the files.
        rows: Number of images in the figure.
        skipped: The reason for each image that cannot be explained, by name; read after ``images``.

    Returns:
        The paths of the files, and the metrics of every network over all images.

    Raises:
        UsageError: There is no image, or one of the files already exists.
        OSError: A file cannot be written.
    """
    figure, page, numbers = paths = [Path(folder) / name for name in FILES]
    check_unwritten(*paths)
    labels, class_names = [network.label for network in networks], networks[0].class_names
    summary, shown = Summary(labels), list[ExplainedImage]()
    colours = colour_map(COLOUR_MAP)
    data: dict[str, Any] = {"classes": class_names, "figures": FIGURES, "colours": colours}

    def entries(file: TextIO) -> Iterator[dict[str, Any]]:
        """Write the numbers of every image as JSON, and yield what the page shows of it."""
        file.write('{"images": [')
        for number, image in enumerate(images):
            summary.add(image)
            if number < rows:
                shown.append(image)
            file.write((",\n" if number else "\n") + json.dumps(_record(image, labels, class_names)))
            yield _entry(image)
        if not shown:
            raise UsageError("there is no image to explain.")
        results = {"networks": _results(networks, summary), "skipped": dict(skipped or {})}
        data.update(results)
        file.write(f"\n],\n{json.dumps(results, indent=1, default=asdict).removeprefix('{')}\n")

    with atomic_text(page) as page_file, atomic_text(numbers) as numbers_file:
        write_page(page_file, "report", "What the networks look at", data, entries(numbers_file))
    with atomic_write(figure) as file:
        drawn = draw_figure(shown, labels, class_names)
        drawn.savefig(file, dpi=130, format="png", bbox_inches="tight")
    return paths, summary


def _results(networks: Sequence[ExplainedNetwork], summary: Summary) -> list[dict[str, Any]]:
    return [
        {
            "label": network.label,
            "network": network.header.network,
            "attention": network.header.attention,
            "layer": network.cam.layer,
            "figures": summary.estimates(number),
            "differences": summary.differences(number) if number else {},
        }
        for number, network in enumerate(networks)
    ]


def _record(image: ExplainedImage, labels: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured on an image."""
    return {
        "image": image.name,
        "class": class_names[image.label] if image.label >= 0 else None,
        "unmasked": image.unmasked,
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
    statistics = {}
    for kind, x in gates.maps.items():
        values = {"mean": x.mean(), "sd": x.std(correction=0), "min": x.min(), "max": x.max()}
        statistics[kind] = {name: round(float(value), _DIGITS) for name, value in values.items()}
    return statistics


def _entry(image: ExplainedImage) -> dict[str, Any]:
    """Return what the HTML report shows of an image."""
    explanations = [
        vars(one) | {"map": _grid(one.map, 0.0), "gates": [_drawn(gates) for gates in one.gates]}
        for one in image.explanations
    ]
    return {
        "name": image.name,
        "label": image.label,
        "unmasked": image.unmasked,
        "image": as_data_url(image.image),
        "explanations": explanations,
    }


def _drawn(gates: Gates) -> dict[str, Any]:
    drawn: dict[str, Any] = {"module": gates.module}
    if gates.channel is not None:
        values = gates.channel.sort(descending=True).values
        kept = torch.linspace(0, len(values) - 1, min(len(values), _MAX_CHANNELS)).round().long()
        drawn["channel"] = _grid(values[kept][None], float(values.min()))
    if gates.spatial is not None:
        drawn["spatial"] = _grid(_reduced(gates.spatial), float(gates.spatial.min()))
    if gates.attention is not None:
        drawn["attention"] = _grid(_reduced(gates.attention), 0.0)
    return drawn


def _reduced(values: Tensor) -> Tensor:
    """Return values (h, w) with at most ``_MAX_SIDE`` cells along each side."""
    return enlarge(values[None], [min(side, _MAX_SIDE) for side in values.shape])[0]


def _grid(values: Tensor, low: float) -> dict[str, Any]:
    """Return values (h, w) as bytes, scaled from the lowest to the largest value."""
    height, width = values.shape
    high = float(values.max())
    encoded = as_bytes(values - low, high - low)
    return {"height": height, "width": width, "low": round(low, 4), "high": round(high, 4), "bytes": encoded}
