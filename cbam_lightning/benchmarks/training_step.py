"""A training step of a network, which can be timed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbam_lightning.benchmarks.machine import autocast
from cbam_lightning.benchmarks.memory import saved_bytes
from cbam_lightning.benchmarks.options import CompileMode, Precision

NUM_CLASSES = 1000


class TrainingStep:
    """A training step of a network on fixed images and labels.

    Args:
        network: Maps images to logits.
        images: (N, C, H, W).
        num_classes: Number of logits.
        precision: Of the forward pass; with fp16, the loss is scaled as in any training.
        compile_mode: Mode of ``torch.compile``; None: as it is.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        num_classes: int = NUM_CLASSES,
        precision: Precision = "32",
        compile_mode: CompileMode | None = None,
    ) -> None:
        self.network = network.train()
        if compile_mode is not None:
            self.network.compile(mode=compile_mode, dynamic=False)
        self.images = images
        self.labels = torch.arange(len(images), device=images.device) % num_classes
        self.precision = precision
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        # without effect unless enabled
        self.scaler = torch.amp.GradScaler(images.device.type, enabled=precision == "fp16")

    def __call__(self) -> None:
        """Run one step."""
        loss = self._forward()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def saved_bytes(self) -> int:
        """Return the bytes saved for the backward pass, without parameters and buffers."""
        return saved_bytes(self._forward, [*self.network.parameters(), *self.network.buffers()])

    def _forward(self) -> Tensor:
        with autocast(self.images.device, self.precision):
            return self._loss()

    def _loss(self) -> Tensor:
        return F.cross_entropy(self.network(self.images), self.labels)
