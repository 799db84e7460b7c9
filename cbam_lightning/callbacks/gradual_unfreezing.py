"""Fine-tuning one stage after the other, from the classifier down, with a learning rate for each."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer

from cbam_lightning.errors import UsageError
from cbam_lightning.models.stages import Stage, find_stages


class GradualUnfreezing(BaseFinetuning):
    """Train the classifier first, then one more stage after every few epochs, at lower rates further down.

    ULMFiT's gradual unfreezing and discriminative learning rates (https://arxiv.org/abs/1801.06146, sections
    3.2 and 3.3). A stage is a part of the network at one resolution (``cbam_lightning.models.stages``), with
    its attention. While a stage is frozen, its BatchNorms keep their running statistics and use them. What
    ``--model.freeze`` froze stays frozen.

    Args:
        epochs_per_stage: Number of epochs from one stage to the next below; 0 trains all from the start.
        lr_decay: Factor by which the learning rate decreases from a stage to the next below; 1 for one rate.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(self, epochs_per_stage: int = 1, lr_decay: float = 2.6) -> None:
        super().__init__()
        if epochs_per_stage < 0 or lr_decay < 1:
            raise UsageError(
                f"epochs_per_stage is {epochs_per_stage} and lr_decay {lr_decay}; "
                "allowed: 0 or more epochs, a decay of 1 or more."
            )
        self.epochs_per_stage = epochs_per_stage
        self.lr_decay = lr_decay
        self.stages: list[Stage] = []
        self._trainable: list[list[nn.Parameter]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the stages before the optimiser is made.

        Raises:
            UsageError: The network has no stages, or the strategy needs all gradients.
        """
        if stage == "fit":
            if self.epochs_per_stage:
                _require_strategy(trainer.strategy)
            super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Find the stages that are to be trained.

        Nothing is frozen yet: DistributedDataParallel knows only what is trainable when it is made.

        Raises:
            UsageError: The network does not run, or the module has no network.
        """
        network = getattr(pl_module, "network", None)
        if not isinstance(network, nn.Module):
            name = type(pl_module).__name__
            raise UsageError(f"GradualUnfreezing trains a Classifier; {name} has no network.")
        channels, size_px = (pl_module.hparams.get(name) for name in ("in_channels", "size_px"))
        stages = find_stages(network, (1, channels, size_px, size_px) if channels and size_px else None)
        self.stages = [stage for stage in stages if any(p.requires_grad for p in stage.parameters)]
        self._trainable = [[p for p in stage.parameters if p.requires_grad] for stage in self.stages]

    def divide(self, optimizer: Optimizer) -> None:
        """Give each stage its own parameter groups, with its learning rate, before a schedule is built.

        Args:
            optimizer: Changed in place. Each of its groups becomes one group for each stage that has
                parameters in it, with all other options as they were.
        """
        groups = []
        for number, group in enumerate(optimizer.param_groups):
            for depth, stage in enumerate(reversed(self.stages)):
                chosen = {id(parameter) for parameter in stage.parameters}
                parameters = [p for p in group["params"] if id(p) in chosen]
                if parameters:
                    name = f"{stage.name}-{number}" if len(optimizer.param_groups) > 1 else stage.name
                    lr = group["lr"] / self.lr_decay**depth
                    groups.append({**group, "params": parameters, "lr": lr, "name": name})
        optimizer.param_groups[:] = groups

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the stages; a run may be resumed in the middle of an epoch."""
        self.finetune_function(pl_module, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due. The optimiser's groups never change, so that none has to be restored."""
        self.finetune_function(pl_module, trainer.current_epoch)
        frozen = self._frozen_at(trainer.current_epoch)
        if frozen < self._frozen_at(trainer.current_epoch - 1):
            above = "" if frozen == len(self.stages) - 1 else " and all above"
            rank_zero_info(f"Epoch {trainer.current_epoch}: training {self.stages[frozen]}{above}")

    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer | None = None
    ) -> None:
        """Freeze the stages that are frozen in an epoch, and no other.

        An optimiser skips parameters without a gradient, weight decay and momentum included.
        """
        frozen = self._frozen_at(epoch)
        self._freeze_below(frozen)
        pl_module.train()  # not each module: the task knows which must stay in evaluation mode
        for stage in self.stages[:frozen]:
            for module in stage.modules.values():
                module.eval()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unfreeze everything that this callback froze."""
        if stage == "fit":
            self._freeze_below(0)
            pl_module.train()

    def _freeze_below(self, number: int) -> None:
        for index, parameters in enumerate(self._trainable):
            for parameter in parameters:
                parameter.requires_grad_(index >= number)

    def _frozen_at(self, epoch: int) -> int:
        """Return how many stages, counted from the input, are frozen in an epoch; all of them in epoch -1."""
        if not self.epochs_per_stage:
            return 0
        return max(0, len(self.stages) - 1 - epoch // self.epochs_per_stage)


def divide_by_stage(optimizer: Optimizer, trainer: Trainer) -> None:
    """Let ``GradualUnfreezing``, where the trainer has it, divide the optimiser's groups by stage."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradualUnfreezing):
            callback.divide(optimizer)


def _require_strategy(strategy: Strategy) -> None:
    options: dict[str, Any] = getattr(strategy, "_ddp_kwargs", {})
    waits = not options.get("find_unused_parameters") or options.get("static_graph")
    if isinstance(strategy, SingleDeviceStrategy) or (isinstance(strategy, DDPStrategy) and not waits):
        return
    raise UsageError(
        "GradualUnfreezing changes which parameters have gradients; with several processes use "
        "--trainer.strategy ddp_find_unused_parameters_true, or epochs_per_stage 0, or use one device."
    )
