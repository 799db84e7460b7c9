"""A user-defined LightningModule."""

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAUROC


class Distiller(LightningModule):
    monitor = "val_loss"
    mode = "min"

    def __init__(self, width: int = 4):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Dropout(0.2), nn.Linear(4 * width, 3),
        )  # fmt: skip
        self.auroc = MulticlassAUROC(3)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.auroc.update(logits.detach(), labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_auroc", self.auroc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        return {"logits": self.net(batch[0])}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)
