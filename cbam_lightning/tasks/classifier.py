"""The task of classification: steps, loss and metrics around a plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import SGD
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from cbam_lightning.attention.registry import can_start_as_identity
from cbam_lightning.callbacks.class_pictures import ClassPictures
from cbam_lightning.callbacks.class_predictions import ClassPredictions
from cbam_lightning.callbacks.compiled_steps import CompiledSteps
from cbam_lightning.data.batch import as_batch
from cbam_lightning.data.classification import ImageDataModule
from cbam_lightning.errors import UsageError
from cbam_lightning.metrics.mean_loss import MeanLoss
from cbam_lightning.metrics.step_checks import check_labels, checked_loss, named_metrics, update_metrics
from cbam_lightning.models import BuiltNetwork, build_network
from cbam_lightning.optim.schedules import Schedule
from cbam_lightning.runs.directory import RunDirectory
from cbam_lightning.runs.next_steps import fine_tuning
from cbam_lightning.tasks.compiling import compile_arguments
from cbam_lightning.tasks.image_task import ImageTask
from cbam_lightning.user_code.class_paths import import_class_path

# Not computed in training: it costs time and says little about a whole epoch.
_NOT_TRAINED = ("top5",)


class Classifier(ImageTask):
    """A network with attention that classifies images.

    A batch has ``images`` (N, C, H, W), normalised floats, and ``labels``: (N,) class indices, or (N, K)
    probabilities with mixup or cutmix. A plain ``(images, labels)`` of any data module is converted.
    Subclasses override ``loss`` and ``configure_metrics``.

    Args:
        network: Name for ``create_model``, or import path of a class. Default: that of ``weights``.
        attention: Name for ``create_attention``, or import path of a class. Default: that of ``weights``, or
            ``none``.
        attention_options: Keyword arguments of every attention module, such as ``{"reduction": 8}``.
        network_options: Further keyword arguments of the network.
        num_classes: Number of classes (the command fills it in).
        in_channels: Number of channels of an image (the command fills it in).
        weights: Weights to start from: a ``.safetensors`` or ``.ckpt`` file, a name from ``cbam-lightning
            weights list``, or torchvision's name of its ImageNet weights (``IMAGENET1K_V1``, ``DEFAULT``). If
            their classes differ from those of the data, the classifier is initialised anew. Weights of a
            plain network also fit one with attention; with the gate ``identity``, their accuracy is kept.
        strict_weights: Whether everything but the classifier must match ``weights``.
        freeze: ``backbone`` to train the classifier only, or a pattern of modules such as ``layer[12]*``.
        optimizer: Any optimiser class of torch and its options.
        schedule: The learning-rate schedule. Default: ``WarmupCosine()``.
        lr_batch_size: The global batch size that the learning rate is meant for; with another one the rate is
            scaled in proportion (https://arxiv.org/abs/1706.02677, section 2.1). Default: no scaling.
        decay_norm_and_bias: Whether weight decay also applies to normalisation layers and biases.
        label_smoothing: Share of the target spread over all classes in training, in [0, 1).
        metrics: Further metrics, of torchmetrics or your own: a dictionary by name, or one metric or a list,
            named by class. They are updated with logits (N, K) and labels (N,) in training, validation and
            test.
        channels_last: Whether images and weights use the channels-last layout, which is often faster.
        compile: Whether to compile the network, in training and in evaluation. In place of true, a mapping of
            what ``torch.compile`` takes: any of ``mode``, ``fullgraph``, ``dynamic``, ``backend`` and
            ``options``; ``{mode: reduce-overhead}`` records CUDA graphs. Checkpoints stay as they are.
        class_names: Names in the order of the logits (the command fills it in).
        size_px: Height and width of the images (the command fills it in).
        mean: Per channel, of pixel values in [0, 1] (the command fills it in).
        std: Per channel, as ``mean`` (the command fills it in).
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
        metrics: list[Metric] | dict[str, Metric] | Metric | None = None,
        channels_last: bool = False,
        compile: bool | dict[str, Any] = False,  # noqa: A002
        class_names: Sequence[str] | None = None,
        size_px: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dataset: str | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, lr_batch_size, decay_norm_and_bias)
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"label_smoothing is {label_smoothing}; allowed: 0 or more, and less than 1.")
        # logged with the run's configuration, which says more
        self.save_hyperparameters(logger=False)
        self.num_classes = num_classes
        self.class_names = tuple(class_names) if class_names else None
        self.label_smoothing = label_smoothing
        self._more_metrics = metrics or ()
        import_class_path(network, "--model.network")
        import_class_path(attention, "--model.attention")
        self.channels_last = channels_last
        self.compile_arguments = compile_arguments(compile)

        built = build_network(
            network,
            attention,
            attention_options,
            network_options,
            num_classes=num_classes,
            in_channels=in_channels,
            class_names=class_names,
            weights=weights or None,
            strict_weights=strict_weights,
        )
        self.network = built.network
        self.complete_hyperparameters(built.names)
        self._new_classifier = built.new_classes
        self._report_loading(built, weights)
        self.freeze_network(freeze)
        self._report_frozen(built)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)

        configured: dict[str, Any] = dict(self.configure_metrics())
        trained = {name: metric for name, metric in configured.items() if name not in _NOT_TRAINED}
        self.train_metrics = MetricCollection(trained, prefix="train/", compute_groups=False).clone()
        self.val_metrics = MetricCollection(configured, prefix="val/", compute_groups=False).clone()
        self.test_metrics = MetricCollection(configured, prefix="test/", compute_groups=False).clone()
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()

    def configure_metrics(self) -> Mapping[str, Metric]:
        """Return the metrics by name, for training, validation and test. Override it to change them.

        Returns:
            ``top1``, ``top5`` and those of the option ``metrics``. Each split gets copies, logged with the
            name of the split, such as ``val/top1``; ``monitor`` must be one of these.
        """
        # the loss refuses wrong labels; looking at them again would wait for the device
        top_k = {"top1": 1, "top5": min(5, self.num_classes)}
        options: dict[str, Any] = {"average": "micro", "validate_args": False}
        accuracies = {
            name: MulticlassAccuracy(self.num_classes, top_k=k, **options) for name, k in top_k.items()
        }
        return {**accuracies, **named_metrics(self._more_metrics)}

    def monitored_metric(self) -> Metric:
        """Return a new metric of logits (N, K) and labels (N,) whose value is ``monitor``."""
        return MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)

    def loss(self, logits: Tensor, batch: Any) -> Tensor:
        """Return the loss to minimise, a scalar: the mean cross-entropy. Override it to change the loss.

        It is also logged in validation and test, where ``self.training`` is false, without label smoothing.

        Args:
            logits: (N, K).
            batch: With ``images`` (N, C, H, W) and ``labels``, (N,) or (N, K) with mixup or cutmix.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)

    def picture_callback(self, run: RunDirectory) -> ClassPictures:
        """Return the callback that draws predictions and the confusion matrix."""
        return ClassPictures(run)

    def prediction_writer(self, run: RunDirectory) -> ClassPredictions:
        """Return the callback that writes the predicted class of every image."""
        return ClassPredictions(run)

    def next_steps(self, run: RunDirectory, checkpoint: Path) -> list[str]:
        """Return lines for the end of a run: how to share and fine-tune its best checkpoint."""
        return super().next_steps(run, checkpoint) + fine_tuning(checkpoint, self.hparams)

    @property
    def train_keys(self) -> set[str]:
        """Names of the metrics that training logs."""
        return {"train/loss", *map(str, self.train_metrics.keys())}

    def _report_loading(self, built: BuiltNetwork, weights: str | None) -> None:
        """Print which of the weights fit, and what starts from new values."""
        if built.report is None or built.header is None:
            return
        rank_zero_info(f"Weights from {weights}: {built.report}")
        attention, options = built.names["attention"], built.names["attention_options"]
        if built.header.attention == "none" != attention and options.get("gate") != "identity":
            can_start = can_start_as_identity(attention, options)
            rank_zero_info(
                "  the new attention changes what the weights compute, unless it starts as the identity"
                + (": --model.attention_options.gate identity" if can_start else ".")
            )
        if built.new_classes:
            rank_zero_info(f"  new classifier: {built.new_classes}")

    def _report_frozen(self, built: BuiltNetwork) -> None:
        """Print how many of the values that the weights did not have are frozen."""
        added = built.report.added if built.report else ()
        frozen = [n for n, p in self.network.named_parameters() if n in set(added) and not p.requires_grad]
        if frozen:
            rank_zero_warn(
                f"--model.freeze {self.hparams['freeze']} also freezes {len(frozen)} parameters that the "
                f"weights do not have, such as {frozen[0]}: they stay as initialised. To train them, freeze "
                "less, with a pattern of modules."
            )

    def setup(self, stage: str) -> None:
        """Compile the network, once: what is compiled for training also evaluates."""
        super().setup(stage)
        if self.compile_arguments is not None and self.network._compiled_call_impl is None:
            self.network.compile(**self.compile_arguments)

    def configure_callbacks(self) -> list[Callback]:
        """Return what steps need, those of a compiled network in particular, unless the trainer has it."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        has_it = any(isinstance(callback, CompiledSteps) for callback in callbacks)
        compiled = [] if has_it or self.compile_arguments is None else [CompiledSteps()]
        return super().configure_callbacks() + compiled

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Convert a plain batch to a ``Batch``, for the steps and for all callbacks."""
        source = type(getattr(self.trainer, "datamodule", None) or self).__name__
        if not hasattr(batch, "images"):  # its labels are unchecked
            labels = as_batch(batch, source).labels
            # of a loader that reads to another device, the first ones: looking at them waits for it
            if not self.trainer.predicting and (labels.is_cpu or not self.trainer.global_step):
                check_labels(labels, self.num_classes, source)
        return as_batch(super()._apply_batch_transfer_handler(batch, device, dataloader_idx), source)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) for normalised images (N, C, H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        # The next run of a CUDA graph overwrites its outputs, but metrics and callbacks may keep the logits.
        return logits if self.compile_arguments is None else logits.clone()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Return the loss to minimise and the logits (N, K)."""
        if not len(batch.images):
            return self.no_images()
        logits = self(batch.images)
        loss = checked_loss(self.loss(logits, batch), self)
        # a mixed image counts as its class with the largest share
        labels = batch.labels.argmax(1) if batch.labels.ndim == 2 else batch.labels
        update_metrics(self.train_metrics, logits.detach(), labels)
        self.log_step({"train/loss": loss})
        return {"loss": loss, "logits": logits}

    def on_train_epoch_end(self) -> None:
        """Log the metrics over the epoch; also called if a run is resumed after its last batch."""
        self.log_dict(self.train_metrics)

    def evaluation_step(self, batch: Any, split: str) -> dict[str, Tensor] | None:
        """Return loss and logits (N, K) of a batch of validation or test."""
        if not len(batch.images):  # unreadable, or another device has one image more
            return None
        logits = self(batch.images)
        losses = self._losses(logits, batch)
        mean_loss: MeanLoss = getattr(self, f"{split}_loss")
        update_metrics(getattr(self, f"{split}_metrics"), logits, batch.labels)
        mean_loss.update(losses)
        return {"loss": losses.mean(), "logits": logits}

    def _losses(self, logits: Tensor, batch: Any) -> Tensor:
        """Return the loss of every image (N,); of a user-defined loss, the mean for each."""
        if type(self).loss is Classifier.loss:
            return F.cross_entropy(logits, batch.labels, reduction="none")
        return checked_loss(self.loss(logits, batch), self).expand(len(logits))

    def log_evaluation(self, split: str) -> None:
        """Log loss and metrics over all images."""
        self.log(f"{split}/loss", getattr(self, f"{split}_loss"), prog_bar=True)
        self.log_dict(getattr(self, f"{split}_metrics"), prog_bar=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return class probabilities (N, K), float32."""
        logits: Tensor = self(batch.images)
        return logits.float().softmax(1)
