"""Drawing boxes on images: the objects in green, the detections in red."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from cbam_lightning.explain.figure_text import shortened

_MIN_SCORE = 0.5  # of a detection that is drawn
_OBJECT_COLOUR, _DETECTION_COLOUR = "limegreen", "tomato"
_LABEL = {"facecolor": "black", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}  # readable on any photograph

Boxes = Mapping[str, Tensor]


def draw_image(panel: Axes, image: Tensor) -> None:
    """Draw an image (C, H, W) with values in [0, 1], C 1 or 3."""
    panel.imshow(image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy())


def draw_objects(panel: Axes, objects: Boxes, names: tuple[str, ...]) -> None:
    """Draw objects, ``boxes`` (T, 4) and ``labels`` (T,), in green, with their classes."""
    for box, label in zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True):
        _draw(panel, box, shortened(names[label - 1]), _OBJECT_COLOUR, "top")


def draw_detections(panel: Axes, detections: Boxes, names: tuple[str, ...]) -> None:
    """Draw detections, ``boxes`` (D, 4), ``labels`` and ``scores`` (D,), in red, with classes and scores."""
    columns = (detections[name].tolist() for name in ("boxes", "labels", "scores"))
    for box, label, score in zip(*columns, strict=True):
        _draw(panel, box, f"{shortened(names[label - 1])} {score:.0%}", _DETECTION_COLOUR, "bottom")


def surest(detections: Boxes) -> dict[str, Tensor]:
    """Return the detections that are drawn, those with a score of at least 0.5, on the CPU."""
    sure = detections["scores"] >= _MIN_SCORE
    return {name: detections[name][sure].cpu() for name in ("boxes", "labels", "scores")}


def _draw(panel: Axes, box: list[float], text: str, colour: str, side: str) -> None:
    """Draw a box with a text above its upper edge (side ``bottom``) or below it (``top``).

    The text begins at the left edge of a box in the left half, and ends at the right edge of another.
    """
    # box corners are pixel edges, while matplotlib has the centres of pixels at whole numbers
    left, top, right, bottom = (edge - 0.5 for edge in box)
    panel.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour))
    place, alignment = (left, "left") if left + right < sum(panel.get_xlim()) else (right, "right")
    panel.text(
        place,
        top,
        text,
        fontsize=7,
        color=colour,
        ha=alignment,
        va=side,
        clip_on=True,
        parse_math=False,
        bbox=_LABEL,
    )
