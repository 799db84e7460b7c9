"""What the network looks at, on the same images, while training goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.explanations import InputImage, explain_images
from cbam_lightning.explain.gate_figure import draw_gates
from cbam_lightning.explain.gradcam import GradCAM
from cbam_lightning.explain.gradcam_figure import draw_figure
from cbam_lightning.explain.networks import ExplainedNetwork
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.weights import Header


class AttentionPictures(Callback):
    """Draw Grad-CAM and the gates of the first validation images every few epochs, and after the last.

    For W&B as ``val/gradcam`` and ``val/gates``, and as PNG files beside the run's other pictures, a file for
    each epoch. Needs ``pip install 'cbam_lightning[explain]'``.

    Args:
        num_images: How many images.
        every_epochs: How often.
        layer: Name of the module whose output Grad-CAM weights, in the network; left out, the last stage.

    Raises:
        UsageError: A number below 1; when training starts, a layer that the network does not have, or Captum
            is not installed.
    """

    def __init__(self, num_images: int = 8, every_epochs: int = 5, layer: str | None = None) -> None:
        for name, value in {"num_images": num_images, "every_epochs": every_epochs}.items():
            if value < 1:
                message = f"{name} is {value}; allowed: 1 or more."
                raise UsageError(message)
        self.num_images = num_images
        self.every_epochs = every_epochs
        self.layer = layer
        self._pictures: list[InputImage] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layer, so that a wrong name does not end a training in its midst."""
        self._header = Header.from_dict(dict(pl_module.hparams), "the run")
        size = self._header.size_px or 224
        self._cam = GradCAM(_network(pl_module), self.layer, (1, self._header.in_channels, size, size))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        self._pictures = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        if self._is_due(trainer):
            for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
                if len(self._pictures) < self.num_images:
                    self._pictures.append(InputImage("", self._pixels(image), label))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, with the very values that were validated, such as those of an EMA."""
        if not self._is_due(trainer) or not self._pictures:
            return
        epoch = trainer.current_epoch + 1
        network = ExplainedNetwork(f"epoch {epoch}", _network(pl_module), self._header, self._cam)
        seen = explain_images([network], self._pictures)
        figures = {"gradcam": draw_figure(seen, [network.label], network.class_names)}
        if seen[0].explanations[0].gates:
            figures["gates"] = draw_gates(seen)
        try:
            self._write(trainer, figures, epoch)
        except OSError as error:  # a full disk is no reason to end a training
            warnings.warn(f"the pictures of epoch {epoch} cannot be written: {error}", stacklevel=2)

    def _is_due(self, trainer: Trainer) -> bool:
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_epochs == 0 or epoch == trainer.max_epochs
        return trainer.state.fn == "fit" and not trainer.sanity_checking and due and trainer.is_global_zero

    def _pixels(self, image: Tensor) -> Tensor:
        """Undo the normalisation: (C, H, W) to uint8."""
        channels = self._header.in_channels
        mean = torch.tensor(self._header.mean or [0.0] * channels).view(-1, 1, 1)
        std = torch.tensor(self._header.std or [1.0] * channels).view(-1, 1, 1)
        return ((image.float().cpu() * std + mean) * 255).round().clamp(0, 255).byte()

    def _write(self, trainer: Trainer, figures: dict[str, Figure], epoch: int) -> None:
        folder = RunDirectory(Path(trainer.default_root_dir)).pictures
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            path = folder / f"{name}_epoch_{epoch:03d}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    with Image.open(path) as image:
                        logger.log_image(f"val/{name}", [image.copy()])


def _network(module: LightningModule) -> torch.nn.Module:
    return cast("torch.nn.Module", module.network)
