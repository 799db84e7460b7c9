"""The Trainer's ``sync_batchnorm`` on any device, including the CPU."""

from __future__ import annotations

from typing import cast

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from cbam_lightning.models.sync_batch_norm import revert_batch_norm, synchronise_batch_norm


class BatchNormSync(TorchSyncBatchNorm):
    """Synchronise every BatchNorm during training in several processes, on any device.

    Use it as ``Trainer(sync_batchnorm=True, plugins=[BatchNormSync()])``. Lightning's own plugin puts in
    ``torch.nn.SyncBatchNorm``, with which DistributedDataParallel refuses to run on the CPU, and replaces
    the modules, so that a frozen BatchNorm would not stay frozen.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise the BatchNorms of a LightningModule that is attached to its trainer.

        Raises:
            UsageError: A BatchNorm overrides ``forward``.
        """
        # the model has not been moved to its device yet
        device = cast(LightningModule, model).trainer.strategy.root_device
        return synchronise_batch_norm(model, device)

    def revert(self, model: nn.Module) -> nn.Module:
        """Stop synchronising."""
        return revert_batch_norm(model)
