"""The callback that draws objects and detections on a few images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cbam_lightning.callbacks.pictures import RunPictures, class_names, panels
from cbam_lightning.explain.box_drawing import Boxes, draw_detections, draw_image, draw_objects, surest
from cbam_lightning.runs.directory import RunDirectory


class BoxPictures(RunPictures):
    """Draw detections over the objects, as a figure, and for W&B as boxes that can be switched on and off.

    Args:
        run: Where to write the files; default: the trainer's root directory.
        num_images: Number of images to show; always the first ones of the split.
        every_epochs: Number of epochs between two drawings.
    """

    def __init__(self, run: RunDirectory | None = None, num_images: int = 8, every_epochs: int = 5) -> None:
        super().__init__(run, num_images, every_epochs)

    def add(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        if outputs is None:
            return
        for image, truth, detections in zip(batch.images, batch.targets, outputs["detections"], strict=True):
            if len(self.shown) < self.num_images:
                target = {name: truth[name].cpu() for name in ("boxes", "labels")}
                self.shown.append((image.float().cpu(), target, surest(detections)))

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return ``detections``."""
        return {"detections": draw_boxes(self.shown, class_names(pl_module))} if self.shown else {}

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send the images with W&B's own boxes."""
        names = dict(enumerate(class_names(pl_module), start=1))
        boxes = [
            {"objects": _for_wandb(target, names), "detections": _for_wandb(detections, names)}
            for _, target, detections in self.shown
        ]
        images = [image.permute(1, 2, 0).numpy() for image, _, _ in self.shown]
        logger.log_image(f"{split}/boxes", images, boxes=boxes)


def draw_boxes(shown: list[tuple[Tensor, Boxes, Boxes]], names: tuple[str, ...]) -> Figure:
    """Draw images with their objects in green and the detections in red, with class and score.

    Args:
        shown: Image (C, H, W) in [0, 1], objects, and detections with ``scores``.
        names: Names of the classes 1, 2, ...
    """
    figure, axes = panels(len(shown), 4, 3, 3)
    for axis, (image, target, detections) in zip(axes, shown, strict=False):
        draw_image(axis, image)
        draw_objects(axis, target, names)
        draw_detections(axis, detections, names)
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
