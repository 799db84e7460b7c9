"""What a data set is asked for: positions, and in training the seed of everything random about each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


class SampleRequest(NamedTuple):
    """A request for one training image.

    Attributes:
        position: Position in the data set.
        seed: Seed of everything random about this image, such as its crop and flip, in [0, 2^64).
    """

    position: int
    seed: int


class SampleRequests(Sequence[SampleRequest]):
    """The requests of a batch, kept as arrays: images in memory are read and changed a batch at a time.

    Args:
        positions: (N,).
        seeds: (N,).
    """

    def __init__(self, positions: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        self.positions = positions
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[SampleRequest]:
        return map(SampleRequest, self.positions.tolist(), self.seeds.tolist())

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return SampleRequests(self.positions[item], self.seeds[item])
        return SampleRequest(int(self.positions[item]), int(self.seeds[item]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleRequests) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


Requests = Sequence[int | SampleRequest]


def position_of(request: int | SampleRequest) -> int:
    """Return the position in the data set that is requested."""
    return request.position if isinstance(request, SampleRequest) else request


def positions_of(requests: Requests) -> NDArray[np.int64]:
    """Return the positions that are requested: (N,)."""
    if isinstance(requests, SampleRequests):
        return requests.positions
    return np.array([position_of(request) for request in requests], dtype=np.int64)


def seeds_of(requests: Requests) -> NDArray[np.uint64]:
    """Return the seeds of a batch, (N,); those of bare positions come from torch's global generator."""
    if isinstance(requests, SampleRequests):
        return requests.seeds
    # the lowest bit stays 0: torch draws 63 of them
    fresh = torch.randint(2**63 - 1, (len(requests),)).numpy().astype(np.uint64) << np.uint64(1)
    pairs = zip(requests, fresh.tolist(), strict=True)
    seeds = [request.seed if isinstance(request, SampleRequest) else seed for request, seed in pairs]
    return np.array(seeds, dtype=np.uint64)
