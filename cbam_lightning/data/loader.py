"""The order of the batches of an epoch on each device, and the loader that resumes in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler

from cbam_lightning.data.sample_requests import SampleRequests
from cbam_lightning.data.split_dataset import SplitDataset
from cbam_lightning.data.worker_processes import starting_workers
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
        first_image: Images of the epoch, over all devices, that were seen in batches of another size.
    """

    def __init__(self, dataset: SplitDataset, batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(cast(Any, dataset), num_replicas, rank, shuffle=False)
        self.images = dataset
        self.batch_size = batch_size
        self.first_batch = 0
        self.first_image = 0


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

    @property
    def _rest(self) -> int:
        """Images after ``first_image``, on the device with most of them."""
        left = self.num_drawn - self.first_image
        rest = -(-left // self.num_replicas)
        ends_with_one = rest == -(-rest // self.batch_size)
        # a device with one image less would get an empty batch
        return rest - 1 if ends_with_one and left % self.num_replicas else rest

    @property
    def num_batches(self) -> int:
        """Batches of the next pass, with those before ``first_batch``."""
        return min(-(-self._rest // self.batch_size), len(self)) if self.first_image else len(self)

    def images_before(self, batch: int) -> int:
        """Return how many images of this device come before a batch, in the next pass."""
        if not self.first_image:
            return min(batch * self.batch_size, self.num_images)
        return min(self._rest, self.num_batches * self.batch_size) * batch // max(self.num_batches, 1)

    def __iter__(self) -> Iterator[SampleRequests]:
        indices, keys = self.own_share()
        # of the images that were seen, the first is that of rank 0
        seen = -(-max(self.first_image - self.rank, 0) // self.num_replicas)
        seeds = image_seeds(derive_seed(Stream.IMAGES, self.run_seed, self.epoch), keys)
        ends = map(self.images_before, range(self.first_batch, self.num_batches + 1))
        for start, end in pairwise(ends):
            batch = slice(seen + start, seen + end)
            yield SampleRequests(indices[batch], seeds[batch])

    def own_share(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return this device's part of the epoch.

        Returns:
            (K,), at least ``num_images`` positions in the data set; and (K,), the keys of their seeds.
        """
        generator = torch.Generator().manual_seed(self.order_seed)
        share = self.images.train_share(generator, self.num_replicas, self.rank).numpy()
        return share, share

    def division(self, batches: int) -> dict[str, int]:
        """Return how the epoch is divided, and how many images were seen after some batches of this pass."""
        images = min(self.first_image + self.images_before(batches) * self.num_replicas, self.num_drawn)
        sizes = {"batch_size": self.batch_size, "devices": self.num_replicas}
        return {"first_image": self.first_image, "images": images, **sizes}

    def continue_after(self, state: Mapping[str, int]) -> int:
        """Continue an epoch that was begun with batches of any size, on any number of devices.

        Args:
            state: A ``division``, and the number of its ``batches`` that were returned.

        Returns:
            The first batch of this order.

        Raises:
            UsageError: The number of devices has changed, and each reads shards of its own.
        """
        if self.images.reads_in_shards and state["devices"] != self.num_replicas:
            raise UsageError(
                f"the run was stopped in the middle of an epoch on {state['devices']} devices, each of which "
                f"reads its own shards, and there are {self.num_replicas} now; resume on as many as before."
            )
        together = self.batch_size * self.num_replicas
        # other devices share complete batches alike; the only batch of fewer images, they do not
        shared = not state["first_image"] and self.num_drawn >= together
        same_batches = state["batch_size"] * state["devices"] == together and (
            state["devices"] == self.num_replicas or shared
        )
        self.first_image = state["first_image"] if same_batches else state["images"]
        return state["batches"] if same_batches else 0

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
            **loading_options(dataset, num_workers),
        )
        self.order = order
        self._epoch, self._batches = order.epoch, 0
        self._resumes = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self.order.epoch
        if not (self._resumes and epoch == self._epoch):
            self._batches = self.order.first_image = 0
        self._epoch, self.order.first_batch, self._resumes = epoch, self._batches, False
        with starting_workers([self]):
            batches = super().__iter__()
        for batch in batches:
            self._batches += 1
            yield batch
        self.order.set_epoch(epoch + 1)  # for a plain loop; Lightning sets the epoch itself

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of its batches that were returned, and how it is divided."""
        division = self.order.division(self._batches) if isinstance(self.order, TrainOrder) else {}
        return {"epoch": self._epoch, "batches": self._batches, **division}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Skip the images that were already returned in the next pass, if that pass is the same epoch.

        Raises:
            UsageError: The number of devices has changed, and each reads files of its own.
        """
        self._epoch, self._batches, self._resumes = state_dict["epoch"], state_dict["batches"], True
        self.order.set_epoch(self._epoch)
        if isinstance(self.order, TrainOrder) and "images" in state_dict:
            self._batches = self.order.continue_after(state_dict)

    @property
    def next_batch(self) -> int:
        """The number of the next batch of the pass that is resumed."""
        return self._batches

    @property
    def position(self) -> int:
        """The next batch, counted so that a whole epoch ends with the pass that is resumed."""
        number = self.order.num_batches if isinstance(self.order, TrainOrder) else len(self)
        return len(self) - (number - self._batches)

    def share(self, first: int, batches: int, of: int) -> float:
        """Return the share of the images of some batches among those of more batches.

        Args:
            first: The first batch of both, in this pass.
            batches: The number of batches.
            of: The number of batches of the whole.
        """
        if not isinstance(self.order, TrainOrder):
            return batches / of
        start, middle, end = (self.order.images_before(first + number) for number in (0, batches, of))
        return (middle - start) / (end - start)


def loading_options(dataset: SplitDataset, num_workers: int) -> dict[str, Any]:
    """Return how any ``DataLoader`` reads a data set, which returns whole batches.

    Args:
        dataset: The images.
        num_workers: Processes that read; 0 reads in this one.
    """
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available() and dataset.device.type == "cpu",
        "collate_fn": collated_already,
    }


def collated_already(batch: Any) -> Any:
    """Return the batch of ``SplitDataset.__getitems__`` unchanged; a function, so it can be pickled."""
    return batch
