"""Metric: any torchmetrics Metric that is updated with logits (N, K) and labels (N,)."""

from torch.nn.functional import one_hot
from torchmetrics import MeanMetric


class Brier(MeanMetric):
    def update(self, logits, labels):
        super().update((logits.softmax(1) - one_hot(labels, logits.shape[1])).square().sum(1))
