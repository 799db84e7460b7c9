"""Detections of several detectors on the same images: a figure, and JSON with every box."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cbam_lightning.explain.box_drawing import Boxes, draw_detections, draw_image, draw_objects, surest
from cbam_lightning.explain.figure_text import in_lines
from cbam_lightning.explain.html_page import atomic_text
from cbam_lightning.explain.networks import require_comparable, split_label
from cbam_lightning.files import atomic_write, check_unwritten
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.detector_network import DetectorNetwork

FILES = ("figure.png", "detections.json")


@dataclass(frozen=True)
class NamedDetector:
    """A detector and what people call it.

    Attributes:
        label: Such as the name of its checkpoint.
        network: In evaluation mode.
    """

    label: str
    network: DetectorNetwork

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 1, 2, ..., or their numbers if the checkpoint has no names."""
        header = self.network.header
        return header.class_names or tuple(str(label) for label in range(1, header.num_classes + 1))


class ImageDetections(NamedTuple):
    """An image with its objects, and the detections of every detector.

    Attributes:
        name: Of the image.
        image: uint8 (C, H, W).
        objects: ``boxes``, ``labels`` and ``difficult`` of the objects; empty if they are unknown.
        detections: For each detector ``boxes`` (D, 4), ``labels`` and ``scores`` (D,), by descending score.
    """

    name: str
    image: Tensor
    objects: dict[str, Tensor]
    detections: tuple[dict[str, Tensor], ...]


def open_detectors(sources: Sequence[str], device: torch.device | str = "cpu") -> list[NamedDetector]:
    """Load detectors that can be compared on the same images.

    Args:
        sources: Files, ``SOURCE`` or ``LABEL=SOURCE``.
        device: Where the detectors run.

    Raises:
        UsageError: A source is not a detector, two have the same label, or they expect different images or
            classes.
    """
    detectors = [
        NamedDetector(label, create_detector(weights=path).eval().to(device))
        for label, path in map(split_label, sources)
    ]
    require_comparable([(detector.label, detector.network.header) for detector in detectors])
    return detectors


@torch.no_grad()
def detect(
    detectors: Sequence[NamedDetector], scenes: Sequence[tuple[str, Tensor, dict[str, Tensor]]]
) -> Iterator[ImageDetections]:
    """Run every detector on a batch of images.

    Args:
        detectors: At least one.
        scenes: For each image the first three fields of ``ImageDetections``.
    """
    device = next(detectors[0].network.parameters()).device
    images = [image.to(device).float() / 255 for _, image, _ in scenes]
    columns = [detector.network(images) for detector in detectors]
    for (name, image, objects), *row in zip(scenes, *columns, strict=True):
        detections = tuple({key: values.cpu() for key, values in one.items()} for one in row)
        yield ImageDetections(name, image, objects, detections)


def write_detections(
    detectors: Sequence[NamedDetector], images: Iterable[ImageDetections], folder: Path, rows: int
) -> list[Path]:
    """Write a figure of the first images, and every box of all images as JSON.

    Args:
        detectors: The detectors.
        images: With the detections of every detector.
        folder: Where to write ``figure.png`` and ``detections.json``.
        rows: Number of images in the figure.

    Returns:
        The paths of both files.

    Raises:
        UsageError: One of the files already exists.
        OSError: A file cannot be written.
    """
    figure, numbers = (folder / name for name in FILES)
    check_unwritten(figure, numbers)
    shown: list[ImageDetections] = []
    with atomic_text(numbers) as file:
        file.write("[")
        for number, image in enumerate(images):
            if number < rows:
                shown.append(image)
            file.write((",\n" if number else "\n") + json.dumps(as_record(image, detectors)))
        file.write("\n]\n")
    with atomic_write(figure) as file:
        draw_columns(shown, detectors).savefig(file, dpi=130, format="png", bbox_inches="tight")
    return [figure, numbers]


def draw_columns(rows: Sequence[ImageDetections], detectors: Sequence[NamedDetector]) -> Figure:
    """Draw images with their objects in green, and beside each the detections of every detector in red.

    Detections with a score below 0.5 are left out.
    """
    names = detectors[0].class_names
    columns = 1 + len(detectors)
    figure = Figure(figsize=(3 * columns, 3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for panel in line:
            panel.axis("off")
            draw_image(panel, row.image / 255)
        draw_objects(line[0], row.objects, names)
        for panel, detections in zip(line[1:], row.detections, strict=True):
            draw_detections(panel, surest(detections), names)
    for panel, heading in zip(panels[0], ["objects", *(one.label for one in detectors)], strict=True):
        panel.set_title(in_lines(heading, width=28), fontsize=10, fontweight="bold", parse_math=False)
    return figure


def as_record(image: ImageDetections, detectors: Sequence[NamedDetector]) -> dict[str, Any]:
    """Return the objects and detections of an image; boxes are left, top, right and bottom in pixels."""
    names = detectors[0].class_names
    return {
        "image": image.name,
        "objects": _listed(image.objects, names, difficult=image.objects["difficult"].tolist()),
        "networks": {
            detector.label: _listed(found, names, score=[round(x, 6) for x in found["scores"].tolist()])
            for detector, found in zip(detectors, image.detections, strict=True)
        },
    }


def _listed(boxes: Boxes, names: Sequence[str], **more: list[Any]) -> list[dict[str, Any]]:
    """Return a dictionary per box, with further fields given as columns."""
    columns = {
        "class": [names[label - 1] for label in boxes["labels"].tolist()],
        "box": [[round(value, 3) for value in box] for box in boxes["boxes"].tolist()],
        **more,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
