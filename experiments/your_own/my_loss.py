"""Loss: a subclass of Classifier with ``loss(logits, batch)``; its arguments become options."""

import torch
from torch.nn import functional as F

from cbam_lightning import Classifier


class Weighted(Classifier):
    def __init__(self, class_weights: list[float], **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("class_weights", torch.tensor(class_weights))

    def loss(self, logits, batch):
        return F.cross_entropy(logits, batch.labels, self.class_weights)
