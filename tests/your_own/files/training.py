"""User-defined parts of training: transform, loss, metric, optimiser, schedule, callback."""

import os
import signal

import torch
from pytorch_lightning import Callback
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from cbam_lightning import Classifier


class Solarise:
    """Inverts pixels above a random threshold."""

    def __init__(self, low: int = 128):
        self.low = low

    def __call__(self, image):
        threshold = int(torch.randint(self.low, 256, ()))
        return torch.where(image < threshold, image, 255 - image)


class WeightedTask(Classifier):
    """Cross-entropy with class weights."""

    def __init__(self, class_weights: list[float], **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("class_weights", torch.tensor(class_weights))

    def loss(self, logits, batch):
        return F.cross_entropy(logits, batch.labels, self.class_weights)


class MeanProbability(Metric):
    """The mean probability of the true class, with a list as its state."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, logits, labels):
        self.seen.append(logits.softmax(1)[torch.arange(len(labels)), labels])

    def compute(self):
        return torch.cat(self.seen).mean()


class ClippedSGD(SGD):
    """Steps along the sign where a gradient is large."""

    def __init__(self, params, lr: float = 0.05, limit: float = 0.1):
        super().__init__(params, lr=lr, momentum=0.9)
        self.limit = limit

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.clamp_(-self.limit, self.limit)
        super().step()
        return loss


class Halving(LRScheduler):
    """Halves the learning rate every few steps."""

    def __init__(self, optimizer, every: int = 4):
        self.every = every
        super().__init__(optimizer)

    def get_lr(self):
        return [base * 0.5 ** (self.last_epoch // self.every) for base in self.base_lrs]


class BreakOff(Callback):
    """Sends SIGTERM to this process after a step, as a cluster queue does."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == int(os.environ.get("BREAK_AT", "0")):
            os.kill(os.getpid(), signal.SIGTERM)
