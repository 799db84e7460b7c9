"""Weight decay and freezing by kind of parameter, and the learning rate for the batch size."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from pytorch_lightning import Trainer
from torch import nn
from torch.optim import Optimizer

from cbam_lightning.errors import UsageError
from cbam_lightning.weights.last_layer import classifier_name


def parameter_groups(module: nn.Module, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """Return the trainable parameters as optimiser groups.

    Args:
        module: The module; frozen parameters are left out.
        decay_norm_and_bias: If false, vectors and scalars (weights and biases of normalisation layers, all
            other biases, learned scales) form a second group with a weight decay of 0
            (https://arxiv.org/abs/1812.01187, section 3.1).

    Raises:
        UsageError: Nothing is left to train.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise UsageError("all parameters are frozen, so there is nothing to train; narrow --model.freeze.")
    if decay_norm_and_bias:
        return [{"params": trainable}]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def freeze(network: nn.Module, pattern: str) -> list[nn.Module]:
    """Freeze some modules.

    Args:
        network: Changed in place: the parameters of the chosen modules no longer require a gradient.
        pattern: ``"backbone"`` for everything but the classifier, or a shell pattern of module names such as
            ``"layer[12]*"``.

    Returns:
        The frozen modules. The caller has to keep them in evaluation mode, or else the running statistics of
        their normalisation layers change.

    Raises:
        UsageError: The pattern matches no module.
    """
    if pattern == "backbone":
        frozen = [inner for module in backbone_modules(network) for inner in module.modules()]
    else:
        frozen = [m for name, m in network.named_modules() if name and fnmatch(name, pattern)]
    if not frozen:
        names = ", ".join(name for name, _ in network.named_children())
        raise UsageError(f"freeze={pattern!r} matches no module. Give 'backbone', or a pattern of {names}.")
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def backbone_modules(network: nn.Module) -> list[nn.Module]:
    """Return the largest modules of a network that do not overlap with its classifier."""
    named = {name: module for name, module in network.named_modules() if name}
    taken = set(named.get(classifier_name(network), nn.Identity()).modules())
    backbone: list[nn.Module] = []
    for module in named.values():
        if taken.isdisjoint(module.modules()):
            backbone.append(module)
            taken.update(module.modules())
    return backbone


def global_batch_size(trainer: Trainer) -> int:
    """Return the number of images per optimiser step, over all devices and accumulated batches.

    Args:
        trainer: The trainer, with its data attached.

    Raises:
        UsageError: The data have no batch size.
    """
    data = getattr(trainer, "datamodule", None) or trainer.fit_loop._data_source.dataloader()
    data = getattr(data, "iterables", data)  # a combination of one
    per_device = getattr(data, "device_batch_size", None) or getattr(data, "batch_size", None)
    if not per_device:
        raise UsageError("lr_batch_size needs data with a batch_size; set the learning rate itself instead.")
    return int(per_device) * trainer.world_size * trainer.accumulate_grad_batches


def scale_learning_rate(optimizer: Optimizer, trainer: Trainer, lr_batch_size: int | None) -> None:
    """Scale the learning rates to the global batch size, in proportion.

    https://arxiv.org/abs/1706.02677, section 2.1.

    Args:
        optimizer: The optimiser, with rates meant for ``lr_batch_size``.
        trainer: The trainer, with its data attached.
        lr_batch_size: Images per step; ``None``: the rates stay.
    """
    if lr_batch_size is None:
        return
    for group in optimizer.param_groups:
        group["lr"] *= global_batch_size(trainer) / lr_batch_size
