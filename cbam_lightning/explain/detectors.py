"""What detectors find on the same images, side by side: a figure, and JSON with every box."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cbam_lightning.explain.boxes import draw_detections, draw_image, draw_objects, surest
from cbam_lightning.explain.subjects import require_comparable, split_label
from cbam_lightning.files import atomic_write, check_unwritten
from cbam_lightning.models import open_checkpoint
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.network import DetectorNetwork
from cbam_lightning.models.detection.registry import DETECTORS

FILES = ("figure.png", "detections.json")


@dataclass(frozen=True)
class FindingSubject:
    """A detector and what people call it.

    Attributes:
        label: Such as the name of its checkpoint.
        network: In evaluation mode.
    """

    label: str
    network: DetectorNetwork

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 1, 2, ..., or their numbers where the checkpoint has none."""
        header = self.network.header
        return header.class_names or tuple(str(label) for label in range(1, header.num_classes + 1))


class Detected(NamedTuple):
    """An image, and what every detector found on it.

    Attributes:
        name: Of the image.
        image: uint8 (C, H, W).
        objects: ``boxes``, ``labels`` and ``difficult`` of what is there; none where that is unknown.
        found: For each detector ``boxes`` (D, 4), ``labels`` and ``scores`` (D,), the highest score first.
    """

    name: str
    image: Tensor
    objects: dict[str, Tensor]
    found: tuple[dict[str, Tensor], ...]


def is_detector(source: str) -> bool:
    """Whether a checkpoint, given as ``SOURCE`` or ``LABEL=SOURCE``, is that of a detector."""
    return open_checkpoint(split_label(source)[1]).header.network in DETECTORS


def open_detectors(sources: Sequence[str], device: torch.device | str = "cpu") -> list[FindingSubject]:
    """Load detectors that can be compared on the same images.

    Args:
        sources: Files, ``SOURCE`` or ``LABEL=SOURCE``.
        device: Where they run.

    Raises:
        UsageError: A source is no detector, two have the same label, or they differ in the images or classes
            that they are for.
    """
    named = [split_label(source) for source in sources]
    subjects = [
        FindingSubject(label, create_detector(weights=path).eval().to(device)) for label, path in named
    ]
    require_comparable([(subject.label, subject.network.header) for subject in subjects])
    return subjects


@torch.no_grad()
def detect(
    subjects: Sequence[FindingSubject], scenes: Sequence[tuple[str, Tensor, dict[str, Tensor]]]
) -> Iterator[Detected]:
    """Find the objects on a batch of images.

    Args:
        subjects: The detectors.
        scenes: Of each image the first three fields of ``Detected``.
    """
    device = next(subjects[0].network.parameters()).device
    images = [image.to(device).float() / 255 for _, image, _ in scenes]
    columns = [subject.network(images) for subject in subjects]
    for (name, image, objects), *found in zip(scenes, *columns, strict=True):
        ours = tuple({key: values.cpu() for key, values in one.items()} for one in found)
        yield Detected(name, image, objects, ours)


def write_detections(
    subjects: Sequence[FindingSubject], detected: Iterable[Detected], folder: Path, rows: int
) -> list[Path]:
    """Write the figure of the first images, and every box of all of them as JSON.

    Args:
        subjects: The detectors.
        detected: What they found.
        folder: Where to write ``figure.png`` and ``detections.json``.
        rows: How many images the figure shows.

    Returns:
        Their paths.

    Raises:
        UsageError: One of the files is already there.
        OSError: A file cannot be written.
    """
    figure, numbers = (folder / name for name in FILES)
    check_unwritten(figure, numbers)
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[Detected] = []
    with atomic_write(numbers) as file:
        file.write(b"[")
        for number, one in enumerate(detected):
            shown += [one] if number < rows else []
            file.write((",\n" if number else "\n").encode() + json.dumps(as_record(one, subjects)).encode())
        file.write(b"\n]\n")
    with atomic_write(figure) as file:
        draw_found(shown, subjects).savefig(file, dpi=130, format="png", bbox_inches="tight")
    return [figure, numbers]


def draw_found(rows: Sequence[Detected], subjects: Sequence[FindingSubject]) -> Figure:
    """Draw images with their objects in green, and beside each what every detector found in red.

    Detections with a score below 0.5 are left out.
    """
    names = subjects[0].class_names
    columns = 1 + len(subjects)
    figure = Figure(figsize=(3 * columns, 3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, one in zip(panels, rows, strict=True):
        for panel in line:
            panel.axis("off")
            draw_image(panel, one.image / 255)
        draw_objects(line[0], one.objects, names)
        for panel, found in zip(line[1:], one.found, strict=True):
            draw_detections(panel, surest(found), names)
    for panel, heading in zip(panels[0], ["objects", *(subject.label for subject in subjects)], strict=True):
        panel.set_title(heading, fontsize=10, fontweight="bold", parse_math=False)
    return figure


def as_record(one: Detected, subjects: Sequence[FindingSubject]) -> dict[str, Any]:
    """Return what is known of an image; boxes are left, top, right and bottom in pixels."""
    names = subjects[0].class_names
    objects = zip(*(one.objects[name].tolist() for name in ("boxes", "labels", "difficult")), strict=True)
    return {
        "image": one.name,
        "objects": [
            {"class": names[label - 1], "box": _rounded(box), "difficult": difficult}
            for box, label, difficult in objects
        ],
        "networks": {
            subject.label: [
                {"class": names[label - 1], "score": round(score, 6), "box": _rounded(box)}
                for box, label, score in zip(
                    *(found[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
                )
            ]
            for subject, found in zip(subjects, one.found, strict=True)
        },
    }


def _rounded(box: list[float]) -> list[float]:
    return [round(value, 3) for value in box]
