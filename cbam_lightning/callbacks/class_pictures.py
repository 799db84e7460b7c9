"""The callback that draws a classifier's predictions on a few images, and the confusion matrix."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from cbam_lightning.callbacks.pictures import RunPictures, class_names, panels, undo_normalisation
from cbam_lightning.explain.box_drawing import draw_image

# Beyond this many classes a confusion matrix cannot be read.
_MAX_CLASSES_SHOWN = 100


class ClassPictures(RunPictures):
    """Draw predicted classes and the confusion matrix.

    Args:
        run: Where to write the files; default: the trainer's root directory.
        num_images: Number of images to show; always the first ones of the split.
        every_epochs: Number of epochs between two drawings.
    """

    _confusion: MulticlassConfusionMatrix | None
    _counts: Tensor | None

    def start(self, pl_module: LightningModule) -> None:
        """Discard what was collected in the last pass."""
        super().start(pl_module)
        self._confusion = self._counts = None
        num_classes = pl_module.hparams["num_classes"]
        if num_classes <= _MAX_CLASSES_SHOWN:
            # the loss refuses wrong labels; looking at them again would wait for the device
            self._confusion = MulticlassConfusionMatrix(num_classes, validate_args=False).to(pl_module.device)

    def add(self, outputs: Any, batch: Any) -> None:
        """Count a batch, and keep the first images."""
        if not isinstance(outputs, dict) or "logits" not in outputs:  # no image, or a user-defined step
            return
        logits = outputs["logits"].float()
        if self._confusion is not None:
            self._confusion.update(logits, batch.labels)
        for i in range(min(self.num_images - len(self.shown), len(logits))):
            self.shown.append((batch.images[i].cpu(), int(batch.labels[i]), logits[i].softmax(0).cpu()))

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return ``predictions`` and ``confusion_matrix``."""
        # a metric is computed over all processes
        self._counts = self._confusion.compute().cpu() if self._confusion is not None else None
        if not self.shown:
            return {}
        names = class_names(pl_module)
        figures = {"predictions": draw_predictions(self.shown, names, pl_module.hparams)}
        if self._counts is not None:
            figures["confusion_matrix"] = draw_confusion(self._counts, names)
        return figures

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send both as tables."""
        names = class_names(pl_module)
        rows = [[names[k], names[int(p.argmax())], float(p.max()), float(p[k])] for _, k, p in self.shown]
        columns = ["class", "prediction", "probability", "probability of the class"]
        logger.log_table(f"{split}/predictions_table", columns=columns, data=rows)
        if (counts := self._counts) is not None:
            pairs = [[names[i], names[j], int(counts[i, j])] for i, j in counts.nonzero().tolist()]
            columns = ["class", "prediction", "images"]
            logger.log_table(f"{split}/confusion_table", columns=columns, data=pairs)


def draw_predictions(shown: list[tuple[Tensor, int, Tensor]], names: tuple[str, ...], hparams: Any) -> Figure:
    """Draw images with their predicted class, in red where it is wrong.

    Args:
        shown: Normalised image (C, H, W), label, probabilities (K,).
        names: K class names.
        hparams: ``mean`` and ``std`` per channel, with which the images were normalised.
    """
    figure, axes = panels(len(shown), 8, 1.5, 1.9)
    for axis, (image, label, probabilities) in zip(axes, shown, strict=False):
        draw_image(axis, undo_normalisation(image, hparams.get("mean"), hparams.get("std")))
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
    image = axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="prediction", ylabel="class")
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= 20:
        for i, row in enumerate(counts.tolist()):
            for j, count in enumerate(row):
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axis, label="share of the class")
    return figure
