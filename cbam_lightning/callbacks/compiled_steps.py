"""What CUDA graphs of a compiled network have to know of a step."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class CompiledSteps(Callback):
    """Tell CUDA graphs where a step begins, and keep what outlives a step.

    With ``mode: reduce-overhead``, a compiled network writes its results where the step before wrote them.
    Without being told, torch takes a forward pass without a backward pass, such as that of a step that was
    skipped, for the beginning of one that goes on, and never writes there again. Gradients that further
    batches are added to have to be copied, since the next forward pass overwrites them
    (https://github.com/pytorch/pytorch/issues/169545). A task that compiles its network brings this callback
    along.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a training step."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin a step of a validation, a test or a prediction."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the gradients if those of further batches are added to them."""
        if trainer.accumulate_grad_batches == 1:
            return
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
