"""The order of the batches of an epoch, on one of several devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from cbam_lightning.data.split_dataset import SampleRequest, SplitDataset
from cbam_lightning.errors import UsageError
from cbam_lightning.seeding import Stream, derive_seed, image_seeds


class BatchOrder(DistributedSampler[Any]):
    """The batches of an epoch in order; a ``DistributedSampler``, because Lightning does not replace one.

    Args:
        dataset: The images.
        batch_size: Images per batch on this device.
        num_replicas: Number of devices.
        rank: Index of this device.

    Attributes:
        first_batch: First batch of the next pass, for a run that is resumed in mid-epoch.
    """

    def __init__(self, dataset: SplitDataset, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(cast(Any, dataset), num_replicas, rank, shuffle=False)
        self.images = dataset
        self.batch_size = batch_size
        self.first_batch = 0


class EvalOrder(BatchOrder):
    """All images, each exactly once, round-robin over ranks.

    All devices get the same number of batches, because they wait for each other at each. The last batches may
    be smaller, or empty.
    """

    def __len__(self) -> int:
        longest = -(-len(self.images) // self.num_replicas)
        return -(-longest // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        own = range(self.rank, len(self.images), self.num_replicas)
        for batch in range(self.first_batch, len(self)):
            yield list(own[batch * self.batch_size :][: self.batch_size])


class TrainOrder(BatchOrder):
    """A new random order every epoch, distributed round-robin over ranks, so that they share global batches.

    The order and the augmentation seed of each image depend on the run's seed and the epoch alone: a batch of
    2N on one device has the same content as two batches of N on two devices. An incomplete batch is dropped,
    unless it is the only one.

    Args:
        dataset: The images.
        batch_size: Images per batch on this device.
        seed: Seed of the run.
        num_replicas: Number of devices.
        rank: Index of this device.

    Raises:
        UsageError: There are fewer images than devices.
    """

    def __init__(
        self, dataset: SplitDataset, batch_size: int, seed: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(dataset, batch_size, num_replicas, rank)
        if len(dataset) < num_replicas:
            message = f"{len(dataset)} images cannot be trained on with {num_replicas} devices; use fewer."
            raise UsageError(message)
        self.run_seed = seed

    @property
    def num_images(self) -> int:
        """Images that this device sees in an epoch."""
        share = self.num_drawn // self.num_replicas
        return share // self.batch_size * self.batch_size or share

    @property
    def num_drawn(self) -> int:
        """Images in an epoch over all devices."""
        return len(self.images)

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        indices, keys = self.own_share()
        base = derive_seed(Stream.IMAGES, self.run_seed, self.epoch)
        for start in range(self.first_batch * self.batch_size, self.num_images, self.batch_size):
            batch = slice(start, min(start + self.batch_size, self.num_images))
            yield list(map(SampleRequest, indices[batch].tolist(), image_seeds(base, keys[batch]).tolist()))

    def own_share(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return this device's part of the epoch.

        Returns:
            (K,), at least ``num_images`` positions in the data set; and (K,), the keys of their seeds.
        """
        generator = torch.Generator().manual_seed(self.order_seed)
        share = self.images.train_share(generator, self.num_replicas, self.rank).numpy()
        return share, share

    @property
    def order_seed(self) -> int:
        """The seed of the epoch's order, the same on all devices."""
        return derive_seed(Stream.ORDER, self.run_seed, self.epoch)
