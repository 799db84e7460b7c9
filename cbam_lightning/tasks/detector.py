"""The LightningModule that trains a detector: step, losses, average precision and optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from cbam_lightning.data.detection.detection_batch import scale_boxes
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.metrics.average_precision import Detections, require_backend
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.network import DetectorNetwork
from cbam_lightning.optim.schedules import Schedule
from cbam_lightning.tasks.base import ImageTask

_BACKGROUND = 1  # one class more than the data have
_FREEZING = ("trainable_stages", "freeze_batch_norm")
_FROZEN = "frozen_parameters"  # in a checkpoint


class Detector(ImageTask):
    """A detector with attention, trained to find objects and to tell their classes apart.

    A batch is a ``DetectionBatch``: images of any size with values in [0, 1], and the boxes in them.

    Args:
        network: Name for ``create_detector``; left out, it is what ``weights`` were made with.
        attention: Name for ``create_attention``: before the heads in SSD and StairNet, in the backbone of
            Faster R-CNN. Left out, it is that of the weights, or ``none``.
        attention_options: Keyword arguments of every attention module, such as ``{"reduction": 8}``.
        network_options: Further arguments of ``create_detector``, such as ``{"box_nms_thresh": 0.3}``.
        num_classes: Classes of the data, without the background (the command fills it in).
        in_channels: Channels of an image (the command fills it in).
        backbone_weights: What the backbone starts from: a classifier's ``.safetensors`` or ``.ckpt`` file,
            one of ``cbam-lightning weights list``, or torchvision's name of its ImageNet weights.
        weights: What the whole detector starts from, a ``.safetensors`` or ``.ckpt`` file; its backbone is in
            it, so that ``backbone_weights`` are not read. Where it has another number of classes, the
            prediction of classes starts anew.
        trainable_stages: How many stages of the backbone are trained; left out, as ``create_detector`` does.
        freeze_batch_norm: Whether BatchNorms keep their statistics; left out, as ``create_detector`` does.
        freeze: A pattern of further modules that are not trained, such as ``backbone*``.
        image_mean: Per channel, of pixel values in [0, 1], with which the network normalises images; left
            out, that of the weights, else that of the data.
        image_std: As ``image_mean``.
        optimizer: Any optimiser class of torch and its options.
        schedule: What the learning rate does; left out, it is ``WarmupCosine()``.
        lr_batch_size: The global batch size that the learning rate is meant for; with another one the rate
            changes in proportion (https://arxiv.org/abs/1706.02677, section 2.1). Left out, it stays.
        decay_norm_and_bias: Whether weight decay applies to normalisation layers and biases, too.
        class_names: Names in the order of the labels, from 1 on (the command fills it in).
        size_px: Height and width of the images, where all have the same (the command fills it in).
        mean: Per channel, of the data, of pixel values in [0, 1] (the command fills it in).
        std: As ``mean`` (the command fills it in).
        dataset: Name of the data set (the command fills it in).

    Raises:
        UsageError: A name is unknown, a value is out of range, or weights belong to another network.
    """

    monitor = "val/map"
    data_class = DetectionDataModule
    network: DetectorNetwork

    def __init__(
        self,
        network: str | None = None,
        attention: str | None = None,
        attention_options: dict[str, Any] | None = None,
        network_options: dict[str, Any] | None = None,
        num_classes: int = 20,
        in_channels: int = 3,
        backbone_weights: str | None = None,
        weights: str | None = None,
        trainable_stages: int | None = None,
        freeze_batch_norm: bool | None = None,
        freeze: str | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=1e-3, momentum=0.9, weight_decay=5e-4),
        schedule: Schedule | None = None,
        lr_batch_size: int | None = None,
        decay_norm_and_bias: bool = True,
        class_names: Sequence[str] | None = None,
        size_px: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dataset: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, lr_batch_size, decay_norm_and_bias)
        # logged with the run's configuration, which says more
        self.save_hyperparameters(logger=False)
        has_weights = weights is not None or backbone_weights is not None
        self.network = create_detector(
            network,
            attention=attention,
            attention_options=attention_options,
            num_classes=num_classes + _BACKGROUND,
            class_names=class_names,
            in_channels=in_channels,
            backbone_weights=None if weights else backbone_weights,
            weights=weights,
            trainable_stages=trainable_stages,
            freeze_batch_norm=freeze_batch_norm,
            mean=image_mean or (None if has_weights else mean),
            std=image_std or (None if has_weights else std),
            **(network_options or {}),
        )
        self._new_classifier = self.network.new_classes
        self._remember()
        self.freeze_network(freeze)
        self.detections = Detections(num_classes)

    def _remember(self) -> None:
        """Say in the hyperparameters what the weights said, since their file may be gone by then."""
        header = self.network.header
        names = ("network", "attention", "attention_options", "network_options")
        self.complete_hyperparameters({name: getattr(header, name) for name in names})
        mean, std = (list(values or ()) for values in (header.mean, header.std))
        self.hparams.update(backbone_weights=None, image_mean=mean, image_std=std, mean=mean, std=std)
        self.hparams.update({name: getattr(self.network, name) for name in _FREEZING})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what is frozen: weights that are loaded say more than the hyperparameters do."""
        frozen = [name for name, p in self.network.named_parameters() if not p.requires_grad]
        checkpoint[_FROZEN] = frozen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network, and freeze what it had frozen.

        Raises:
            UsageError: Says what differs.
        """
        super().on_load_checkpoint(checkpoint)
        for name in checkpoint.get(_FROZEN, ()):
            self.network.get_parameter(name).requires_grad_(False)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return for each image (C, H, W) ``boxes`` (D, 4), ``labels`` and ``scores`` (D,)."""
        found: list[dict[str, Tensor]] = self.network(images)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return the sum of the losses."""
        if not len(batch.images):
            return self.no_images()
        losses: dict[str, Tensor] = self.network(batch.images, batch.targets)
        loss = torch.stack(list(losses.values())).sum()
        size = len(batch.images)
        self.log("train/loss", loss, prog_bar=True, batch_size=size, sync_dist=True)
        parts = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(parts, batch_size=size, sync_dist=True)
        return {"loss": loss}

    def setup(self, stage: str) -> None:
        """Refuse data of another task, and a training or test whose result could not be computed."""
        super().setup(stage)
        if stage != "predict":
            require_backend()

    def _evaluation_step(self, batch: Any) -> dict[str, Any] | None:
        if not len(batch.images):  # unreadable, or another device has one image more
            return None
        found = self(batch.images)
        self.detections.add(batch.indices, found, batch.targets)
        return {"detections": found}

    def _log_evaluation(self, split: str) -> None:
        scores = self.detections.average_precision()
        self.log_dict({f"{split}/{name}": value for name, value in scores.items()}, prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        """Forget the detections of the last time."""
        self.detections.clear()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """Return the detections in the images of a validation batch."""
        return self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the average precision over all validation images."""
        self._log_evaluation("val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """Return the detections in the images of a test batch."""
        return self._evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        """Log the average precision over all test images."""
        self._log_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        """Return the detections in the images of a batch, in pixels of the images as stored."""
        found = self(batch.images) if len(batch.images) else []
        for image, one, size in zip(batch.images, found, batch.original_sizes.tolist(), strict=True):
            one["boxes"] = scale_boxes(one["boxes"], tuple(image.shape[1:]), tuple(size))
        return found
