"""Module: any LightningModule trains with any of our data modules, and the other way round."""

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional as F


class Linear(LightningModule):
    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.lr = lr
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch.images), batch.labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)
