"""The training order with a sampler, which may choose an image several times per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cbam_lightning.data.loader import TrainOrder
from cbam_lightning.data.split_dataset import SplitDataset, whole_number
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import spared_generators


class BalancedSampler(Sampler[int]):
    """Draws with replacement: first a class, then an image of it, both uniformly.

    An epoch has as many draws as there are images. The random numbers come from torch's global generator.

    Args:
        images: The training images, with ``labels``. A class without images is not drawn.
    """

    def __init__(self, images: Any) -> None:
        self.labels: Tensor = images.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        sizes = self.labels.bincount()
        present = sizes.nonzero()[:, 0]
        classes = present[torch.randint(len(present), (len(self),))]
        places = (torch.rand(len(self), dtype=torch.float64) * sizes[classes]).long()
        starts = sizes.cumsum(0) - sizes
        return iter(self.labels.argsort(stable=True)[starts[classes] + places].tolist())


class SampledOrder(TrainOrder):
    """The images that a sampler chooses, distributed round-robin over ranks.

    The choice depends on the run's seed and the epoch alone: the sampler is built anew for every epoch, after
    the global generators were seeded. An image that is drawn twice is augmented in two ways, because its seed
    depends on the position in the epoch.

    Args:
        dataset: The images.
        *options: Further arguments of ``TrainOrder``.
        sampler: Builds the sampler from the data set.

    Raises:
        UsageError: The images are streamed from an object store, shard by shard.
    """

    def __init__(
        self, dataset: SplitDataset, *options: int, sampler: Callable[[Dataset[Any]], Sampler[int]]
    ) -> None:
        if dataset.is_streamed:
            raise UsageError(
                "--data.balanced and --data.sampler draw images all over the data set, and this one is "
                "fetched from an object store shard by shard; copy it to this machine, or leave them out."
            )
        super().__init__(dataset, *options)
        self.make_sampler = sampler
        self._drawn: tuple[int, NDArray[np.int64]] | None = None

    @property
    def num_drawn(self) -> int:
        """Images that the sampler chooses in this epoch."""
        return len(self._positions())

    def own_share(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return this device's part of the epoch, and the positions of its images in the whole epoch."""
        drawn = self._positions()
        return drawn[self.rank :: self.num_replicas], np.arange(self.rank, len(drawn), self.num_replicas)

    def _positions(self) -> NDArray[np.int64]:
        """Return what the sampler chooses in this epoch, over all devices."""
        if self._drawn is not None and self._drawn[0] == self.epoch:
            return self._drawn[1]
        with spared_generators(self.order_seed):
            sampler: Any = self.make_sampler(self.images)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.epoch)
            chosen = list(sampler)
        title = f"--data.sampler {type(sampler).__name__}"
        if len(chosen) < self.num_replicas:
            raise UsageError(f"{title} gave {len(chosen)} images; allowed: at least one for each device.")
        drawn = np.array([_position(item, len(self.images), title) for item in chosen], dtype=np.int64)
        self._drawn = self.epoch, drawn
        return drawn


def _position(item: object, num_images: int, title: str) -> int:
    position = whole_number(item)
    if not 0 <= position < num_images:
        raise UsageError(
            f"{title} gave {item!r:.80}; allowed: positions from 0 to {num_images - 1}, one at a time."
        )
    return position
