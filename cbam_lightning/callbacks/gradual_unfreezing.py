"""Fine-tuning a stage at a time, from the classifier down, with a learning rate for each."""

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
    """Train the classifier first, then one stage more after every few epochs; lower stages change less.

    ULMFiT's gradual unfreezing and discriminative learning rates (https://arxiv.org/abs/1801.06146, sections
    3.2 and 3.3). A stage is what works at one resolution (``cbam_lightning.models.stages``); attention counts
    with the stage it is in. While a stage is frozen, its BatchNorms keep their running statistics and use
    them. What ``--model.freeze`` froze stays frozen.

    Args:
        epochs_per_stage: Epochs between one stage and the next below it; 0 trains all of them from the start.
        lr_decay: What the learning rate is divided by from a stage to the next below it; 1 for one rate.

    Raises:
        UsageError: A value is out of range.
    """

    def __init__(self, epochs_per_stage: int = 1, lr_decay: float = 2.6) -> None:
        super().__init__()
        if epochs_per_stage < 0 or lr_decay < 1:
            message = (
                f"epochs_per_stage is {epochs_per_stage} and lr_decay {lr_decay}; "
                "allowed: 0 or more epochs, a decay of 1 or more."
            )
            raise UsageError(message)
        self.epochs_per_stage = epochs_per_stage
        self.lr_decay = lr_decay
        self.stages: list[Stage] = []
        self._trainable: list[list[nn.Parameter]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the stages before the optimiser is made.

        Raises:
            UsageError: The network has no stages, or several processes do not expect frozen parameters.
        """
        if stage == "fit":
            if self.epochs_per_stage:
                _require_strategy(trainer.strategy)
            super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Find the stages that are to be trained.

        Nothing is frozen yet: DistributedDataParallel knows only what is trainable when it is made.

        Raises:
            UsageError: The network does not run, or the module has none.
        """
        network = getattr(pl_module, "network", None)
        if not isinstance(network, nn.Module):
            message = f"GradualUnfreezing trains a Classifier; {type(pl_module).__name__} has no network."
            raise UsageError(message)
        channels, size_px = (pl_module.hparams.get(name) for name in ("in_channels", "size_px"))
        found = find_stages(network, (1, channels, size_px, size_px) if channels and size_px else None)
        self.stages = [stage for stage in found if any(p.requires_grad for p in stage.parameters)]
        self._trainable = [[p for p in stage.parameters if p.requires_grad] for stage in self.stages]

    def divide(self, optimizer: Optimizer) -> None:
        """Give each stage groups of its own, with its learning rate; to be called before a schedule is built.

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
        """Freeze, in the middle of an epoch, too, if that is where a run goes on."""
        self.finetune_function(pl_module, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due. The groups of the optimiser never change, so none has to be remembered."""
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
        pl_module.train()  # not each module: the Classifier knows which have to stay in evaluation mode
        for stage in self.stages[:frozen]:
            for module in stage.modules.values():
                module.eval()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network as trainable as it was."""
        if stage == "fit":
            self._freeze_below(0)
            pl_module.train()

    def _freeze_below(self, number: int) -> None:
        for index, parameters in enumerate(self._trainable):
            for parameter in parameters:
                parameter.requires_grad_(index >= number)

    def _frozen_at(self, epoch: int) -> int:
        """Return how many stages from the images on are frozen in an epoch; all of them before the first."""
        if not self.epochs_per_stage:
            return 0
        return max(0, len(self.stages) - 1 - epoch // self.epochs_per_stage)


def divide_by_stage(optimizer: Optimizer, trainer: Trainer) -> None:
    """Let ``GradualUnfreezing``, where the trainer has it, divide the optimiser's groups by stage."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, GradualUnfreezing):
            callback.divide(optimizer)


def _require_strategy(strategy: Strategy) -> None:
    options: dict[str, Any] = getattr(strategy, "_ddp_kwargs", {})
    waits = not options.get("find_unused_parameters") or options.get("static_graph")
    if isinstance(strategy, SingleDeviceStrategy) or (isinstance(strategy, DDPStrategy) and not waits):
        return
    message = (
        "GradualUnfreezing changes what is trained, which several processes have to expect; use one device, "
        "--trainer.strategy ddp_find_unused_parameters_true, or epochs_per_stage 0."
    )
    raise UsageError(message)
