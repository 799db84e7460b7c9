"""The callback that draws Grad-CAM and the gates on the same images during training."""

from __future__ import annotations

from typing import Any, cast

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from cbam_lightning.callbacks.pictures import RunPictures, undo_normalisation
from cbam_lightning.explain.explanations import InputImage, explain_images
from cbam_lightning.explain.gate_figure import draw_gates
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.explain.gradcam_figure import draw_figure
from cbam_lightning.explain.networks import ExplainedNetwork
from cbam_lightning.weights import Header


class AttentionPictures(RunPictures):
    """Draw Grad-CAM and the gates of the first validation images every few epochs, and after the last.

    They go to W&B as ``val/gradcam`` and ``val/gates``, and next to the run's other figures as PNG files, one
    per epoch. Needs ``pip install 'cbam_lightning[explain]'``.

    Args:
        num_images: Number of images.
        every_epochs: Number of epochs between two drawings.
        layer: Name of the module of the network whose output Grad-CAM weights; default: the last stage.

    Raises:
        UsageError: A number is below 1; when training starts: the network has no such layer, or Captum is
            not installed.
    """

    def __init__(self, num_images: int = 8, every_epochs: int = 5, layer: str | None = None) -> None:
        super().__init__(None, num_images, every_epochs)
        self.layer = layer

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer, so that a wrong name is reported before training."""
        self._header = Header.from_dict(dict(pl_module.hparams), "the run")
        size = self._header.size_px or 224
        self._cam = GradCAM(_network(pl_module), self.layer, (1, self._header.in_channels, size, size))

    def add(self, outputs: Any, batch: Any) -> None:
        """Keep the first images."""
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            if len(self.shown) < self.num_images:
                pixels = undo_normalisation(image, self._header.mean, self._header.std)
                self.shown.append(InputImage("", (pixels * 255).round().byte(), label))

    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return ``gradcam``, and ``gates`` if the network has any."""
        if not self.shown:
            return {}
        label = f"epoch {trainer.current_epoch + 1}"
        network = ExplainedNetwork(label, _network(pl_module), self._header, self._cam)
        seen = explain_images([network], self.shown)
        figures = {"gradcam": draw_figure(seen, [network.label], network.class_names)}
        if seen[0].explanations[0].gates:
            figures["gates"] = draw_gates(seen)
        return figures

    def is_due(self, trainer: Trainer) -> bool:
        """Return whether to draw in this pass: in training only, and on one process."""
        return super().is_due(trainer) and trainer.state.fn == "fit" and trainer.is_global_zero

    def file_name(self, trainer: Trainer, split: str, name: str) -> str:
        """Return the name of a figure's file, another one for every epoch."""
        return f"{name}_epoch_{trainer.current_epoch + 1:03d}.png"


def _network(module: LightningModule) -> torch.nn.Module:
    return cast("torch.nn.Module", module.network)
