"""The data set of packed images: shards are fetched and opened when their images are requested."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from functools import lru_cache

import torch
from torch import Tensor

from cbam_lightning.data.batch import BadImage
from cbam_lightning.data.image_decoding import UndecodableError
from cbam_lightning.data.image_digests import digest_of_names
from cbam_lightning.data.packed.packed_files import PackedFiles
from cbam_lightning.data.packed.shards import DamagedShardError, decode
from cbam_lightning.data.split_dataset import Preparation, TransformedDataset

SHARDS_AT_ONCE = 16  # read at any time in training; 1 GB of shards of 64 MiB

# A data set with a smaller share of a part's images, such as a held-out hundredth, reads single images from
# an object store: nearly every shard has one of them, so fetching the shards would fetch the whole part.
SPARSE_SHARE = 1 / 8

# Shards that one process keeps open; more than are read at any time.
OPEN_SHARDS = 4 * SHARDS_AT_ONCE
_open_shard = lru_cache(OPEN_SHARDS)(PackedFiles.open_shard)
_open_remote_shard = lru_cache(OPEN_SHARDS)(PackedFiles.open_remote_shard)


class PackedDataset(TransformedDataset):
    """Packed images, decoded and transformed on access.

    Args:
        files: Files of the part.
        positions: int64 (M,), which of the part's images belong to this data set.
        labels: int64 (M,), the class of each image.
        preparation: How the images are prepared.
    """

    def __init__(
        self, files: PackedFiles, positions: Tensor, labels: Tensor, preparation: Preparation
    ) -> None:
        super().__init__(labels, preparation)
        self.files = files
        self.positions = positions
        self.is_sparse = len(positions) < SPARSE_SHARE * len(files.slots)
        self.is_streamed = files.store.is_remote and not self.is_sparse
        self.reads_in_shards = files.store.is_remote or len(files.shards) > OPEN_SHARDS

    def read(self, index: int) -> Tensor | BadImage:
        """Decode an image: uint8 (C, H, W)."""
        files = self.files
        slot = int(files.slots[self.positions[index]])
        number = bisect_right(files.starts, slot) - 1
        name = files.shard_name(number)
        try:
            in_ranges = self.is_sparse and not files.store.holds(name)
            shard = (_open_remote_shard if in_ranges else _open_shard)(files, number)
            return decode(shard.image(slot - files.starts[number]), files.encoding, self.channels)
        except DamagedShardError as error:
            reason = f"the shard is damaged: {error}; {files.store.advice(name)}"
            return BadImage(files.store.where(name), reason, errno.EIO)
        except UndecodableError as error:
            return BadImage(self.name(index), f"in {files.store.where(name)}, {error}")
        except OSError as error:
            return BadImage(self.name(index), error.strerror or str(error), error.errno or errno.EIO)

    def name(self, index: int) -> str:
        """Return the path of the image in the folder that it was packed from."""
        return os.fsdecode(bytes(self.files.names[self.positions[index]]))

    def digest(self) -> str:
        """Return a digest of the names, the same as that of the folder that they were packed from."""
        return digest_of_names(self.files.names[self.positions.numpy()])

    def train_share(self, generator: torch.Generator, num_replicas: int, rank: int) -> Tensor:
        """Return an order that reads few shards at a time, if they must be fetched or are many."""
        if not self.reads_in_shards:
            return super().train_share(generator, num_replicas, rank)
        starts = torch.tensor(self.files.starts)
        shard_of = torch.searchsorted(starts, self.files.slots[self.positions], right=True) - 1
        return shard_share(shard_of, generator, num_replicas, rank)


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
