"""Pictures of a detector: the same few images with the boxes that are there and those that were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cbam_lightning.callbacks.class_predictions import class_names
from cbam_lightning.callbacks.pictures import RunPictures
from cbam_lightning.explain.box_drawing import Boxes, draw_detections, draw_image, draw_objects, surest
from cbam_lightning.runs.directory import RunDirectory


class BoxPictures(RunPictures):
    """Draw detections over the objects, as a figure, and for W&B as boxes that can be switched on and off.

    Args:
        run: Where to write the files.
        num_images: How many images of the split to show; always the first ones.
        every_epochs: How often to draw while training goes on.
    """

    def __init__(self, run: RunDirectory, num_images: int = 8, every_epochs: int = 5) -> None:
        super().__init__(run, num_images, every_epochs)
        self._shown: list[tuple[Tensor, Boxes, Boxes]] = []

    def start(self, pl_module: LightningModule) -> None:
        """Begin to collect."""
        self._shown = []

    def add(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        if outputs is None:
            return
        for image, truth, found in zip(batch.images, batch.targets, outputs["detections"], strict=True):
            if len(self._shown) < self.num_images:
                target = {name: truth[name].cpu() for name in ("boxes", "labels")}
                self._shown.append((image.float().cpu(), target, surest(found)))

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return ``detections``."""
        return {"detections": draw_boxes(self._shown, class_names(pl_module))} if self._shown else {}

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send the images with W&B's own boxes."""
        names = dict(enumerate(class_names(pl_module), start=1))
        boxes = [
            {"objects": _for_wandb(target, names), "detections": _for_wandb(found, names)}
            for _, target, found in self._shown
        ]
        images = [image.permute(1, 2, 0).numpy() for image, _, _ in self._shown]
        logger.log_image(f"{split}/boxes", images, boxes=boxes)


def draw_boxes(shown: list[tuple[Tensor, Boxes, Boxes]], names: tuple[str, ...]) -> Figure:
    """Draw images with their objects in green and what was found in red, with class and score.

    Args:
        shown: Image (C, H, W) in [0, 1], objects, and detections with ``scores``.
        names: Of the classes 1, 2, ...
    """
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels:
        panel.axis("off")
    for panel, (image, target, found) in zip(panels, shown, strict=False):
        draw_image(panel, image)
        draw_objects(panel, target, names)
        draw_detections(panel, found, names)
    return figure


def _for_wandb(boxes: Boxes, names: Mapping[int, str]) -> dict[str, Any]:
    scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["labels"])
    data = [
        {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": names[label],
            **({} if score is None else {"scores": {"score": score}}),
        }
        for box, label, score in zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), scores, strict=True)
    ]
    return {"box_data": data, "class_labels": dict(names)}
