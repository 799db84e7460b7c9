"""Pictures of a run: when they are drawn, and where they go."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from cbam_lightning.runs.directory import RunDirectory


class RunPictures(Callback, ABC):
    """Draw what a model makes of a split, for the run's directory and for W&B.

    Args:
        run: Where to write the files.
        num_images: How many images of the split to show; always the first ones.
        every_epochs: How often to draw while training goes on.
    """

    def __init__(self, run: RunDirectory, num_images: int = 16, every_epochs: int = 5) -> None:
        self.run = run
        self.num_images = num_images
        self.every_epochs = every_epochs

    @abstractmethod
    def start(self, pl_module: LightningModule) -> None:
        """Begin to collect."""

    @abstractmethod
    def add(self, outputs: Any, batch: Any) -> None:
        """Collect a batch.

        Args:
            outputs: What the step returned, ``None`` for a batch without images.
            batch: As the step got it.
        """

    @abstractmethod
    def figures(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        """Return the figures by name, none where there was no image; every process has to come here."""

    def log_more(self, logger: WandbLogger, split: str, pl_module: LightningModule) -> None:
        """Send W&B what is more than pictures."""

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        epoch = trainer.current_epoch + 1
        return not trainer.training and (
            trainer.state.fn != "fit" or epoch % self.every_epochs == 0 or epoch == trainer.max_epochs
        )

    def _finish(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        figures = self.figures(trainer, pl_module)
        if not trainer.is_global_zero or not figures:
            return
        try:
            self._write(trainer, split, figures)
        except OSError as error:  # a full disk is no reason to end a training
            warnings.warn(f"{self.run.pictures} cannot be written ({error.strerror}).", stacklevel=2)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self.log_more(logger, split, pl_module)

    def _write(self, trainer: Trainer, split: str, figures: dict[str, Figure]) -> None:
        self.run.pictures.mkdir(exist_ok=True)
        for name, figure in figures.items():
            path = self.run.pictures / f"{split}_{name}.png"
            figure.savefig(path, dpi=120)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    with Image.open(path) as image:
                        logger.log_image(f"{split}/{name}", [image.copy()])

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        if self._is_due(trainer):
            self.start(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        if self._is_due(trainer):
            self.add(outputs, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if self._is_due(trainer):
            self._finish(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect."""
        if self._is_due(trainer):
            self.start(pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        if self._is_due(trainer):
            self.add(outputs, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if self._is_due(trainer):
            self._finish(trainer, pl_module, "test")
