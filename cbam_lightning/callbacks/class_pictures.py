"""Pictures of a classifier: predictions on the same few images, and the confusion matrix."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from cbam_lightning.callbacks.class_predictions import class_names
from cbam_lightning.callbacks.pictures import RunPictures
from cbam_lightning.runs.directory import RunDirectory

# Beyond this many classes neither a picture nor K x K counts tell anybody anything.
_MAX_CLASSES_SHOWN = 100


class ClassPictures(RunPictures):
    """Draw predicted classes and the confusion matrix.

    Args:
        run: Where to write the files.
        num_images: How many images of the split to show; always the first ones.
        every_epochs: How often to draw while training goes on.
    """

    def __init__(self, run: RunDirectory, num_images: int = 16, every_epochs: int = 5) -> None:
        super().__init__(run, num_images, every_epochs)
        self._shown: list[tuple[Tensor, int, Tensor]] = []
        self._confusion: MulticlassConfusionMatrix | None = None
        self._counts: Tensor | None = None

    def start(self, pl_module: LightningModule) -> None:
        """Begin to collect."""
        self._shown = []
        self._confusion = self._counts = None
        num_classes = pl_module.hparams["num_classes"]
        if num_classes <= _MAX_CLASSES_SHOWN:
            self._confusion = MulticlassConfusionMatrix(num_classes).to(pl_module.device)

    def add(self, outputs: Any, batch: Any) -> None:
        """Count a batch, and keep the first images."""
        if not isinstance(outputs, dict) or "logits" not in outputs:  # no image, or a step of the user's
            return
        logits = outputs["logits"].float()
        if self._confusion is not None:
            self._confusion.update(logits, batch.labels)
        for i in range(min(self.num_images - len(self._shown), len(logits))):
            self._shown.append((batch.images[i].cpu(), int(batch.labels[i]), logits[i].softmax(0).cpu()))

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return ``predictions`` and ``confusion_matrix``."""
        # a metric is computed over all processes
        self._counts = self._confusion.compute().cpu() if self._confusion is not None else None
        if not self._shown:
            return {}
        names = class_names(pl_module)
        figures = {"predictions": draw_predictions(self._shown, names, pl_module.hparams)}
        if self._counts is not None:
            figures["confusion_matrix"] = draw_confusion(self._counts, names)
        return figures

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send both as tables, too."""
        names = class_names(pl_module)
        rows = [
            [names[label], names[int(p.argmax())], float(p.max()), float(p[label])]
            for _, label, p in self._shown
        ]
        columns = ["class", "prediction", "probability", "probability of the class"]
        logger.log_table(f"{split}/predictions_table", columns=columns, data=rows)
        if self._counts is not None:
            pairs = [
                [names[i], names[j], int(self._counts[i, j])] for i, j in self._counts.nonzero().tolist()
            ]
            columns = ["class", "prediction", "images"]
            logger.log_table(f"{split}/confusion_table", columns=columns, data=pairs)


def draw_predictions(shown: list[tuple[Tensor, int, Tensor]], names: tuple[str, ...], hparams: Any) -> Figure:
    """Draw images with their predicted class, in red where it is wrong.

    Args:
        shown: Normalised image (C, H, W), label, probabilities (K,).
        names: K class names.
        hparams: ``mean`` and ``std`` per channel, with which the images were normalised.
    """
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, (image, label, probabilities) in zip(axes, shown, strict=False):
        channels = len(image)
        mean = torch.tensor(hparams.get("mean") or [0.0] * channels).view(-1, 1, 1)
        std = torch.tensor(hparams.get("std") or [1.0] * channels).view(-1, 1, 1)
        pixels = (image.float() * std + mean).clamp(0, 1)  # (C, H, W)
        axis.imshow(
            pixels.permute(1, 2, 0).numpy() if channels == 3 else pixels[0].numpy(),
            cmap="gray",
            vmin=0,
            vmax=1,
        )
        best = int(probabilities.argmax())
        colour = "black" if best == label else "red"
        truth = "" if best == label else f"\nis {names[label]}"
        axis.set_title(f"{names[best]} {probabilities[best]:.0%}{truth}", fontsize=8, color=colour)
    return figure


def draw_confusion(counts: Tensor, names: tuple[str, ...]) -> Figure:
    """Draw the confusion matrix with rows as shares of their class.

    Args:
        counts: (K, K), rows are true classes, columns predicted ones.
        names: K class names.
    """
    shares = counts.float() / counts.sum(1, keepdim=True).clamp(min=1)
    size = max(4.0, 0.45 * len(names) + 2)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="prediction", ylabel="class")
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= 20:
        for i, row in enumerate(counts.tolist()):
            for j, count in enumerate(row):
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axis, label="share of the class")
    return figure
