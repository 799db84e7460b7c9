"""Checks of user-defined labels, losses and metrics in the steps of a classifier."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from cbam_lightning.errors import UsageError


def check_labels(labels: Tensor, num_classes: int, source: str) -> None:
    """Refuse labels that are not classes.

    Args:
        labels: (N,), preferably on the CPU, where reading them costs nothing; or (N, K) probabilities.
        num_classes: Number of classes of the network.
        source: Name of the class that gave the labels.

    Raises:
        UsageError: A label is below 0, or too large.
    """
    if labels.is_floating_point() or not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UsageError(
            f"{source} gives the label {low if low < 0 else high}, and the network has {num_classes} "
            f"classes, 0 to {num_classes - 1}; give --model.num_classes, or correct the labels."
        )


def checked_loss(loss: Any, task: Any) -> Tensor:
    """Return the loss of a task as a scalar tensor.

    Args:
        loss: Return value of ``task.loss``.
        task: A ``Classifier``.

    Raises:
        UsageError: It is not a single number, or does not depend on the weights.
    """
    is_number = isinstance(loss, Tensor) and loss.numel() == 1
    if isinstance(loss, Tensor) and is_number and (loss.requires_grad or not task.training):
        return loss.squeeze()
    what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    if is_number:
        what = "a number that does not depend on the weights, such as a detached one"
    name, file = type(task).__name__, inspect.getsourcefile(type(task).loss)
    raise UsageError(f"{name}.loss in {file} returned {what}; return the mean over the batch.")


def named_metrics(metrics: Mapping[str, Metric] | Sequence[Metric] | Metric) -> dict[str, Metric]:
    """Return metrics by name: that of their class in a list, their key in a mapping.

    Raises:
        UsageError: A list has two metrics of one class.
    """
    if isinstance(metrics, Mapping):
        return dict(metrics)
    metrics = [metrics] if isinstance(metrics, Metric) else metrics
    names = [type(metric).__name__ for metric in metrics]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--model.metrics has {twice[0]} twice; give a dictionary, with a name for each.")
    return dict(zip(names, metrics, strict=True))


def update_metrics(metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
    """Update metrics with a batch.

    Those of torchmetrics check the values of the first batch only, as they wait for the device to do it.

    Args:
        metrics: The metrics of a split.
        logits: (N, K).
        labels: (N,), class indices.

    Raises:
        UsageError: A metric does not accept these.
    """
    for name, metric in metrics.items(keep_base=True):
        try:
            metric.update(logits, labels)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise UsageError(
                f"the metric {name!r}, a {type(metric).__name__} of --model.metrics or configure_metrics, "
                f"does not take logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: {error} Give "
                f"one for {logits.shape[1]} classes; one for probabilities takes logits.softmax(1) in its "
                "own update."
            ) from error
        if getattr(metric, "validate_args", False):
            metric.validate_args = False
