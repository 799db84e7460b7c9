"""A model that keeps the batches it gets, and its trainer."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torchmetrics import MeanMetric


class Probe(LightningModule):
    """Keeps the batches it gets."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
        self.seen = {"train": [], "val": [], "test": [], "predict": []}
        self.mean = MeanMetric()

    def training_step(self, batch):
        self.seen["train"].append(batch)
        return nn.functional.cross_entropy(self.layer(batch.images), batch.labels)

    def validation_step(self, batch):
        self.seen["val"].append(batch)
        self.layer(batch.images)

    def test_step(self, batch):
        self.seen["test"].append(batch)

    def predict_step(self, batch):
        self.seen["predict"].append(batch)
        return batch.indices

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet, **options)
