"""The task of object detection: steps, losses and average precision around a plain detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from cbam_lightning.callbacks.box_pictures import BoxPictures
from cbam_lightning.callbacks.box_predictions import BoxPredictions
from cbam_lightning.data.detection.detection_batch import scale_boxes
from cbam_lightning.data.detection.module import DetectionDataModule
from cbam_lightning.metrics.average_precision import Detections, require_backend
from cbam_lightning.models.detection import create_detector
from cbam_lightning.models.detection.detector_network import DetectorNetwork
from cbam_lightning.optim.schedules import Schedule
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.next_steps import detecting
from cbam_lightning.tasks.image_task import ImageTask

_BACKGROUND = 1  # counts as a class of the network
_FREEZING = ("trainable_stages", "freeze_batch_norm")
_FROZEN = "frozen_parameters"  # in a checkpoint


class Detector(ImageTask):
    """A detector with attention that locates and classifies objects.

    A batch is a ``DetectionBatch``: images of any size with values in [0, 1], and the boxes in them.

    Args:
        network: Name for ``create_detector``. Default: that of ``weights``.
        attention: Name for ``create_attention``: before the heads in SSD and StairNet, in the backbone of
            Faster R-CNN. Default: that of the weights, or ``none``.
        attention_options: Keyword arguments of every attention module, such as ``{"reduction": 8}``.
        network_options: Further arguments of ``create_detector``, such as ``{"box_nms_thresh": 0.3}``.
        num_classes: Number of classes, without the background (the command fills it in).
        in_channels: Number of channels of an image (the command fills it in).
        backbone_weights: Weights of a classifier to start the backbone from: a ``.safetensors`` or ``.ckpt``
            file, a name from ``cbam-lightning weights list``, or torchvision's name of its ImageNet weights.
        weights: Weights of a detector to start from, a ``.safetensors`` or ``.ckpt`` file. They include the
            backbone, so ``backbone_weights`` are ignored. If they have another number of classes, the layer
            that predicts classes is initialised anew.
        trainable_stages: Number of stages of the backbone to train. Default: that of ``create_detector``.
        freeze_batch_norm: Whether BatchNorms keep their statistics. Default: that of ``create_detector``.
        freeze: A pattern of further modules to freeze, such as ``backbone*``.
        image_mean: Per channel, of pixel values in [0, 1], with which the network normalises images. Default:
            that of the weights, else that of the data.
        image_std: Per channel, as ``image_mean``.
        optimizer: Any optimiser class of torch and its options.
        schedule: The learning-rate schedule. Default: ``WarmupCosine()``.
        lr_batch_size: The global batch size that the learning rate is meant for; with another one the rate is
            scaled in proportion (https://arxiv.org/abs/1706.02677, section 2.1). Default: no scaling.
        decay_norm_and_bias: Whether weight decay also applies to normalisation layers and biases.
        class_names: Names in the order of the labels, starting at 1 (the command fills it in).
        size_px: Height and width of the images, if all have the same (the command fills it in).
        mean: Per channel, of the pixel values of the data in [0, 1] (the command fills it in).
        std: Per channel, as ``mean`` (the command fills it in).
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
        self._complete_hyperparameters()
        self.freeze_network(freeze)
        self.detections = Detections(num_classes)

    def _complete_hyperparameters(self) -> None:
        """Write what the weights' header said to the hyperparameters, since the file may be gone later."""
        header = self.network.header
        names = ("network", "attention", "attention_options", "network_options")
        self.complete_hyperparameters({name: getattr(header, name) for name in names})
        mean, std = (list(values or ()) for values in (header.mean, header.std))
        self.hparams.update(backbone_weights=None, image_mean=mean, image_std=std, mean=mean, std=std)
        self.hparams.update({name: getattr(self.network, name) for name in _FREEZING})

    def picture_callback(self, run: RunDirectory) -> BoxPictures:
        """Return the callback that draws objects and detections."""
        return BoxPictures(run)

    def prediction_writer(self, run: RunDirectory) -> BoxPredictions:
        """Return the callback that writes the detections in every image."""
        return BoxPredictions(run)

    def next_steps(self, run: RunDirectory, checkpoint: Path) -> list[str]:
        """Return lines for the end of a run: how to share its best checkpoint and detect objects with it."""
        return super().next_steps(run, checkpoint) + detecting(run, checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save which parameters are frozen, which depends on loaded weights, not on hyperparameters alone."""
        checkpoint[_FROZEN] = [n for n, p in self.network.named_parameters() if not p.requires_grad]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network, and freeze the parameters that it had frozen.

        Raises:
            UsageError: Says what differs.
        """
        super().on_load_checkpoint(checkpoint)
        for name in checkpoint.get(_FROZEN, ()):
            self.network.get_parameter(name).requires_grad_(False)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return for each image (C, H, W) ``boxes`` (D, 4), ``labels`` and ``scores`` (D,)."""
        detections: list[dict[str, Tensor]] = self.network(images)
        return detections

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return the sum of the losses."""
        if not len(batch.images):
            return self.no_images()
        losses: dict[str, Tensor] = self.network(batch.images, batch.targets)
        loss = torch.stack(list(losses.values())).sum()
        parts = {f"train/{name}": value for name, value in losses.items()}
        self.log_step({"train/loss": loss, **parts})
        return {"loss": loss}

    def setup(self, stage: str) -> None:
        """Refuse data of another task, and training or tests without the package that computes the metric."""
        super().setup(stage)
        if stage != "predict":
            require_backend()

    def evaluation_step(self, batch: Any, split: str) -> dict[str, Any] | None:
        """Return the detections in the images of a batch of validation or test."""
        if not len(batch.images):  # unreadable, or another device has one image more
            return None
        detections = self(batch.images)
        self.detections.add(batch.indices, detections, batch.targets)
        return {"detections": detections}

    def log_evaluation(self, split: str) -> None:
        """Log the average precision over all images."""
        scores = self.detections.average_precision()
        self.log_dict({f"{split}/{name}": value for name, value in scores.items()}, prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        """Discard the detections of the last pass."""
        self.detections.clear()

    on_test_epoch_start = on_validation_epoch_start

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        """Return the detections in the images of a batch, in pixels of the images as read."""
        detections = self(batch.images) if len(batch.images) else []
        for image, boxes, size in zip(batch.images, detections, batch.original_sizes.tolist(), strict=True):
            boxes["boxes"] = scale_boxes(boxes["boxes"], tuple(image.shape[1:]), tuple(size))
        return detections
