"""A data loader that keeps track of its position, so that a run can resume in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from cbam_lightning.data.batch_order import BatchOrder
from cbam_lightning.data.split_dataset import SplitDataset


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
