"""Short real runs: a small network, few real pictures, one thread."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader

from cbam_lightning.data import Batch
from cbam_lightning.data.fashion_mnist import EMBEDDED_DIR
from cbam_lightning.data.idx import read_idx
from cbam_lightning.optim import Constant
from cbam_lightning.tasks import Classifier

PLAIN_SGD = partial(SGD, lr=0.05)


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """Clothes of 14 x 14 pixels, normalised float32 (2000, 1, 14, 14), and their classes."""
    images = torch.tensor(read_idx(EMBEDDED_DIR / "t10k-images-idx3-ubyte.gz", num_axes=3))
    labels = torch.tensor(read_idx(EMBEDDED_DIR / "t10k-labels-idx1-ubyte.gz", num_axes=1))
    return (images[:, None, ::2, ::2] / 255 - 0.286) / 0.353, labels.long()


def batch(count: int, start: int = 0) -> Batch:
    images, labels = pictures()
    chosen = torch.arange(start, start + count)
    return Batch(images[chosen], labels[chosen], chosen)


def loader(count: int, batch_size: int = 4, start: int = 0, **options: Any) -> DataLoader[Batch]:
    """Return ``count`` pictures in their order; the last batch is smaller if they do not divide."""
    return DataLoader(
        [Batch(*item) for item in zip(*batch(count, start), strict=True)], batch_size, **options
    )


def batches(*several: Batch) -> DataLoader[Batch]:
    """Return just these batches."""
    return DataLoader(list(several), batch_size=None)


def classifier(**options: Any) -> Classifier:
    """Return a CBAM ResNet of three narrow blocks, always with the same initial values."""
    torch.manual_seed(0)
    given = {
        "network": "resnet20",
        "attention": "cbam",
        "network_options": {"depths": [1, 1, 1], "widths": [8, 16, 32]},
        "in_channels": 1,
        "optimizer": PLAIN_SGD,
        "schedule": Constant(),
    }
    return Classifier(**given | options)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    given = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), **given | options)


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def differing(state: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Return the keys whose values are not the same bits, or are in one only."""
    keys = state.keys() & other.keys()
    return (state.keys() ^ other.keys()) | {key for key in keys if not torch.equal(state[key], other[key])}
