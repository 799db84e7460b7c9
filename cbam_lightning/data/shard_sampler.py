"""The order of training for shards that have to be fetched: random, but few shards at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

SHARDS_AT_ONCE = 16  # 1 GB of shards of 64 MiB


class ShardSampler(DistributedSampler[int]):
    """Shuffle the shards, deal them out to the devices, and shuffle each device's images in a moving window.

    An image is moved by a random distance of up to ``SHARDS_AT_ONCE`` shards, so about as many are read at
    any time, and each is done with soon. A shard holds random images of its part: a window is a fair sample.

    On one device the order follows torch's global generator, as that of ``RandomSampler`` does. On several it
    follows the seed of the run and the epoch, as with ``DistributedSampler``, for all of them must draw the
    same; at most ``num_replicas - 1`` images, others in every epoch, are left out, so that all get as many.
    It is a ``DistributedSampler`` to Lightning, which then leaves it in place.

    Args:
        shard_of: int64 (M,), the shard of each image of the data set.
        num_replicas: Number of devices.
        rank: Which of them this is.
    """

    def __init__(self, shard_of: Tensor, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(cast(Any, shard_of), num_replicas, rank, drop_last=True)
        self.shard_of = shard_of

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed())
        num_shards = int(self.shard_of.max()) + 1
        turn = torch.randperm(num_shards, generator=generator)[self.shard_of]  # when the shard's turn comes
        order = torch.argsort(turn, stable=True)
        own = order[self.rank * self.num_samples :][: self.num_samples]
        window = SHARDS_AT_ONCE * len(order) / num_shards
        shift = window * torch.rand(len(own), generator=generator, dtype=torch.float64)
        return iter(own[torch.argsort(torch.arange(len(own)) + shift)].tolist())

    def _seed(self) -> int:
        if self.num_replicas > 1:
            return int(os.environ.get("PL_GLOBAL_SEED", 0)) + self.epoch  # Lightning's name and default
        return int(torch.empty((), dtype=torch.int64).random_().item())
