"""The order of the batches of an epoch on each device, and the loader that resumes in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler

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
            raise UsageError(
                f"{len(dataset)} images cannot be trained on with {num_replicas} devices; use fewer."
            )
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


class BatchLoader(DataLoader[Any]):
    """Reads the batches of an order, and can continue where another process stopped.

    Nothing is read before the first batch is requested, because Lightning sets the epoch of the order only
    then.

    Args:
        dataset: The images.
        order: Which images form each batch.
        num_workers: Processes that read; 0 reads in this one.
    """

    def __init__(self, dataset: SplitDataset, order: BatchOrder, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the order gives whole batches
            sampler=order,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collated_already,
        )
        self.order = order
        self._epoch, self._batches = order.epoch, 0
        self._resumes = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self.order.epoch
        if not (self._resumes and epoch == self._epoch):
            self._batches = 0
        self._epoch, self.order.first_batch, self._resumes = epoch, self._batches, False
        for batch in super().__iter__():
            self._batches += 1
            yield batch
        self.order.set_epoch(epoch + 1)  # for a plain loop; Lightning sets the epoch itself

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its batches that were returned."""
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Skip the batches that were already returned in the next pass, if that pass is the same epoch."""
        self._epoch, self._batches, self._resumes = state_dict["epoch"], state_dict["batches"], True
        self.order.set_epoch(self._epoch)


def collated_already(batch: Any) -> Any:
    """Return the batch of ``SplitDataset.__getitems__`` unchanged; a function, so it can be pickled."""
    return batch
