"""A task with its own loss; network, metrics, optimizer and schedule are those of Classifier."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from cbam_lightning import Classifier


class FocalTask(Classifier):
    """A classifier with the focal loss, which emphasises misclassified images (https://arxiv.org/abs/1708.02002).

    Args:
        gamma: Exponent of the focal loss; 0 gives cross-entropy.
        kwargs: Options of ``Classifier``.
    """

    def __init__(self, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def loss(self, logits: Tensor, batch: Any) -> Tensor:
        """Return the mean focal loss of logits (N, K) for ``batch.labels`` (N,)."""
        losses = F.cross_entropy(logits, batch.labels, reduction="none")  # (N,)
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()
