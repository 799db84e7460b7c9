"""The training order for shards that must be fetched: random, but from few shards at a time."""

from __future__ import annotations

import torch
from torch import Tensor

SHARDS_AT_ONCE = 16  # 1 GB of shards of 64 MiB


def shard_share(shard_of: Tensor, generator: torch.Generator, num_replicas: int, rank: int) -> Tensor:
    """Shuffle the shards, distribute them over devices, and shuffle each device's images in a moving window.

    An image moves by a random distance of up to ``SHARDS_AT_ONCE`` shards, so about that many are read at any
    time, and each is finished soon. A shard holds random images of its part, so a window is a fair sample.

    Args:
        shard_of: int64 (M,), the shard of each image of the data set.
        generator: In the same state on every device.
        num_replicas: Number of devices.
        rank: Index of this device.

    Returns:
        int64 (M // num_replicas,), the images of this device in their order. Up to ``num_replicas - 1``
        images, others in every epoch, are dropped, so that all devices get the same number.
    """
    num_shards = int(shard_of.max()) + 1
    shard_rank = torch.randperm(num_shards, generator=generator)[shard_of]  # rank of the image's shard
    order = torch.argsort(shard_rank, stable=True)
    num_own = len(order) // num_replicas
    own = order[rank * num_own :][:num_own]
    window = SHARDS_AT_ONCE * len(order) / num_shards
    shift = window * torch.rand(num_own, generator=generator, dtype=torch.float64)
    return own[torch.argsort(torch.arange(num_own) + shift)]
