"""The LightningModule that trains a classifier: step, loss, metrics and optimiser around a plain network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.optim import SGD
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from cbam_lightning.attention.registry import option_names
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.errors import UsageError, first_names
from cbam_lightning.models import build, open_checkpoint, resolve_names
from cbam_lightning.tasks.image_task import ImageTask
from cbam_lightning.tasks.mean_loss import MeanLoss
from cbam_lightning.tasks.schedules import Schedule
from cbam_lightning.weights import Checkpoint, load_into


class Classifier(ImageTask):
    """A network with attention, trained to tell classes apart.

    A batch has ``images`` (N, C, H, W), normalised floats, and ``labels``: (N,) class indices, or (N, K)
    probabilities where mixup or cutmix is on.

    Args:
        network: Name for ``create_model``; left out, it is what ``weights`` were made with.
        attention: Name for ``create_attention``; left out, it is that of ``weights``, or ``none``.
        attention_options: Keyword arguments of every attention module, such as ``{"reduction": 8}``.
        network_options: Further keyword arguments of the network.
        num_classes: Classes of the data (the command fills it in).
        in_channels: Channels of an image (the command fills it in).
        weights: What to start from: a ``.safetensors`` or ``.ckpt`` file, one of ``cbam-lightning weights
            list``, or torchvision's name of its ImageNet weights (``IMAGENET1K_V1``, ``DEFAULT``). Where its
            classes differ from the data's, the classifier starts anew. Weights of a plain network fit one
            with attention, too; with the gate ``identity`` it then starts from their accuracy.
        strict_weights: Whether everything but the classifier has to fit ``weights``.
        freeze: ``backbone`` to train the classifier only, or a pattern of modules such as ``layer[12]*``.
        optimizer: Any optimiser class of torch and its options.
        schedule: What the learning rate does; left out, it is ``WarmupCosine()``.
        lr_batch_size: The global batch size that the learning rate is meant for; with another one the rate
            changes in proportion (https://arxiv.org/abs/1706.02677, section 2.1). Left out, it stays.
        decay_norm_and_bias: Whether weight decay applies to normalisation layers and biases, too.
        label_smoothing: Share of the target spread over all classes in training, in [0, 1).
        channels_last: Whether to lay out images and weights channels last, which is often faster.
        compile: Whether to compile the network for training (``torch.compile``).
        class_names: Names in the order of the logits (the command fills it in).
        size_px: Height and width of the images (the command fills it in).
        mean: Per channel, of pixel values in [0, 1] (the command fills it in).
        std: As ``mean`` (the command fills it in).
        dataset: Name of the data set (the command fills it in).

    Raises:
        UsageError: A name is unknown, a value is out of range, or ``weights`` belong to another network.
    """

    monitor = "val/top1"
    data_class = ImageDataModule

    def __init__(
        self,
        network: str | None = None,
        attention: str | None = None,
        attention_options: dict[str, Any] | None = None,
        network_options: dict[str, Any] | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        weights: str | None = None,
        strict_weights: bool = True,
        freeze: str | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-4),
        schedule: Schedule | None = None,
        lr_batch_size: int | None = None,
        decay_norm_and_bias: bool = True,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002
        class_names: Sequence[str] | None = None,
        size_px: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dataset: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, lr_batch_size, decay_norm_and_bias)
        if not 0 <= label_smoothing < 1:
            message = f"label_smoothing is {label_smoothing}; allowed: from 0 up to, not including, 1."
            raise UsageError(message)
        # logged with the run's configuration, which says more
        self.save_hyperparameters(logger=False)
        self.num_classes = num_classes
        self.class_names = tuple(class_names) if class_names else None
        self.label_smoothing = label_smoothing
        self.channels_last = channels_last
        self.compile_network = compile

        start = open_checkpoint(weights, network) if weights else None
        header = start.header if start else None
        names = resolve_names(header, network, attention, attention_options, network_options)
        self.complete_hyperparameters(names)
        self.network = build(**names, num_classes=num_classes, in_channels=in_channels)
        if start is not None:
            self._load(start, str(weights), strict_weights)
        self.freeze_network(freeze)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)

        self._create_metrics(num_classes)

    def _create_metrics(self, num_classes: int) -> None:
        top_k = {"top1": 1, "top5": min(5, num_classes)}
        metrics = MetricCollection(
            {name: MulticlassAccuracy(num_classes, top_k=k, average="micro") for name, k in top_k.items()},
            compute_groups=False,
        )
        self.train_metrics = MetricCollection({"top1": metrics["top1"].clone()}, prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()

    @property
    def train_keys(self) -> set[str]:
        """The figures that training logs."""
        return {"train/loss", *map(str, self.train_metrics.keys())}

    def _load(self, start: Checkpoint, source: str, strict: bool) -> None:
        """Start from the weights, with a new classifier if the classes are others."""
        theirs = start.header.class_names
        same = start.header.num_classes == self.num_classes and (
            theirs is None or self.class_names is None or theirs == self.class_names
        )
        report = load_into(
            self.network,
            start.state_dict,
            load_head=same,
            new_attention=start.header.attention == "none",
            strict=strict,
            source=source,
        )
        rank_zero_info(f"Weights from {source}: {report}")
        gated = "gate" in option_names(self.hparams["attention"])
        if report.added and gated and self.hparams["attention_options"].get("gate") != "identity":
            rank_zero_info(
                "  the new attention changes what the network has learned, unless its gates start at 1: "
                "--model.attention_options.gate identity"
            )
        if not same:
            self._new_classifier = (
                f"{source} knows {start.header.num_classes} classes{first_names(theirs)}, the data have "
                f"{self.num_classes}{first_names(self.class_names)}"
            )
            rank_zero_info(f"  new classifier: {self._new_classifier}")

    def setup(self, stage: str) -> None:
        """Compile for training, which also gives a new classifier its values."""
        super().setup(stage)
        if stage == "fit" and self.compile_network:
            self.network.compile()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) for normalised images (N, C, H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return the loss to minimise and the logits (N, K)."""
        if not len(batch.images):
            return self.no_images()
        logits = self(batch.images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        # the class with the largest share stands for a mixed image
        labels = batch.labels.argmax(1) if batch.labels.ndim == 2 else batch.labels
        self.train_metrics.update(logits.detach(), labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits), sync_dist=True)
        return {"loss": loss, "logits": logits.detach()}

    def on_train_epoch_end(self) -> None:
        """Log the accuracy over the epoch; a run that is resumed after its last batch comes here, too."""
        self.log_dict(self.train_metrics)

    def _evaluation_step(self, batch: Any, split: str) -> dict[str, Tensor] | None:
        if not len(batch.images):  # unreadable, or another device has one image more
            return None
        logits = self(batch.images)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        metrics: MetricCollection = getattr(self, f"{split}_metrics")
        mean_loss: MeanLoss = getattr(self, f"{split}_loss")
        metrics.update(logits, batch.labels)
        mean_loss.update(losses)
        return {"loss": losses.mean(), "logits": logits}

    def _log_evaluation(self, split: str) -> None:
        self.log(f"{split}/loss", getattr(self, f"{split}_loss"), prog_bar=True)
        self.log_dict(getattr(self, f"{split}_metrics"), prog_bar=True)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return loss and logits (N, K) of a validation batch."""
        return self._evaluation_step(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracies over all validation images."""
        self._log_evaluation("val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return loss and logits (N, K) of a test batch."""
        return self._evaluation_step(batch, "test")

    def on_test_epoch_end(self) -> None:
        """Log loss and accuracies over all test images."""
        self._log_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return class probabilities (N, K), float32."""
        logits: Tensor = self(batch.images)
        return logits.float().softmax(1)
