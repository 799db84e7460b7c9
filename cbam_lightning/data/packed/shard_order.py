"""The order of training for shards that have to be fetched: random, but few shards at a time."""

from __future__ import annotations

import torch
from torch import Tensor

SHARDS_AT_ONCE = 16  # 1 GB of shards of 64 MiB


def shard_share(shard_of: Tensor, generator: torch.Generator, num_replicas: int, rank: int) -> Tensor:
    """Shuffle the shards, deal them out to the devices, and shuffle each device's images in a moving window.

    An image is moved by a random distance of up to ``SHARDS_AT_ONCE`` shards, so about as many are read at
    any time, and each is done with soon. A shard holds random images of its part: a window is a fair sample.

    Args:
        shard_of: int64 (M,), the shard of each image of the data set.
        generator: In the same state on every device.
        num_replicas: Number of devices.
        rank: Which of them this is.

    Returns:
        int64 (M // num_replicas,), the images of this device in their order; at most ``num_replicas - 1``,
        others in every epoch, come to none, so that all devices get as many.
    """
    num_shards = int(shard_of.max()) + 1
    turn = torch.randperm(num_shards, generator=generator)[shard_of]  # when the shard's turn comes
    order = torch.argsort(turn, stable=True)
    num_own = len(order) // num_replicas
    own = order[rank * num_own :][:num_own]
    window = SHARDS_AT_ONCE * len(order) / num_shards
    shift = window * torch.rand(num_own, generator=generator, dtype=torch.float64)
    return own[torch.argsort(torch.arange(num_own) + shift)]
