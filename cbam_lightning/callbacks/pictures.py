"""Base class of the callbacks that draw figures: when they draw, and where the figures go."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cbam_lightning.checks import check_positive
from cbam_lightning.runs.directory import RunDirectory


class RunPictures(Callback, ABC):
    """Draw a model's results on a split every few epochs, after the last one, and in validation and test.

    Args:
        run: Where to write the files; default: the trainer's root directory.
        num_images: Number of images to show; always the first ones of the split.
        every_epochs: Number of epochs between two drawings.

    Attributes:
        shown: What ``add`` collected of each of the images to show.

    Raises:
        UsageError: A number is below 1.
    """

    def __init__(self, run: RunDirectory | None = None, num_images: int = 16, every_epochs: int = 5) -> None:
        check_positive("num_images", num_images)
        check_positive("every_epochs", every_epochs)
        self.run = run
        self.num_images = num_images
        self.every_epochs = every_epochs
        self.shown: list[Any] = []

    def start(self, pl_module: LightningModule) -> None:
        """Discard what was collected in the last pass."""
        self.shown = []

    @abstractmethod
    def add(self, outputs: Any, batch: Any) -> None:
        """Collect a batch.

        Args:
            outputs: What the step returned, ``None`` for a batch without images.
            batch: The batch as the step received it.
        """

    @abstractmethod
    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return the figures by name, none if there was no image; called on every process."""

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send W&B more than the figures."""

    def is_due(self, trainer: Trainer) -> bool:
        """Return whether to draw in this pass."""
        if trainer.sanity_checking:
            return False
        epoch = trainer.current_epoch + 1
        return trainer.state.fn != "fit" or epoch % self.every_epochs == 0 or epoch == trainer.max_epochs

    def file_name(self, trainer: Trainer, split: str, name: str) -> str:
        """Return the name of a figure's file."""
        return f"{split}_{name}.png"

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        if self.is_due(trainer):
            self.start(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Collect a batch."""
        if self.is_due(trainer):
            self.add(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, write and log, while the weights that were evaluated are still in place."""
        figures = self.figures(trainer, pl_module) if self.is_due(trainer) else {}
        if not figures or not trainer.is_global_zero:
            return
        split = "test" if trainer.testing else "val"
        folder = (self.run or RunDirectory(Path(trainer.default_root_dir))).pictures
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                path = folder / self.file_name(trainer, split, name)
                figure.savefig(path, dpi=120, bbox_inches="tight")
                for logger in loggers:
                    with Image.open(path) as image:
                        logger.log_image(f"{split}/{name}", [image.copy()])
        except OSError as error:  # a full disk is no reason to end a run
            warnings.warn(f"{folder} cannot be written ({error.strerror}).", stacklevel=2)
        for logger in loggers:
            self.log_more(logger, split, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_test_epoch_end = on_validation_epoch_end


def class_names(module: LightningModule) -> tuple[str, ...]:
    """Return the names of a task's classes, or their numbers if it has no names."""
    names = module.hparams.get("class_names") or range(module.hparams["num_classes"])
    return tuple(str(name) for name in names)


def undo_normalisation(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Return an image (C, H, W) with float values in [0, 1], on the CPU.

    Args:
        image: Normalised, of any type.
        mean: Per channel, with which the image was normalised; ``None``: it was not.
        std: As ``mean``.
    """
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean or [0.0], std or [1.0]))
    return (image.float().cpu() * scale + shift).clamp(0, 1)


def panels(count: int, max_columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure, and its panels without axes.

    Args:
        count: Number of panels.
        max_columns: Number of panels side by side.
        width: Width of a panel, in inches.
        height: Height of a panel, in inches.
    """
    columns = min(max_columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes:
        axis.axis("off")
    return figure, axes
