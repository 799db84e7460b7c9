"""Random number generators inside a user's loaders."""

from __future__ import annotations

import pickle
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from cbam_lightning.seeding import Stream, derive_seed

_PARTS = ("sampler", "batch_sampler", "dataset", "_sampler")  # `_sampler` is inside Lightning's wrapper
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class OwnGenerators:
    """Seeds the generators of loaders, samplers and data sets by the place in the run.

    The seed also depends on the generator's first state, so that a user's own seed has an effect.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int]] = {}

    def seed(self, loaders: Iterable[Any], *place: int) -> None:
        """Seed every generator that is an attribute of a loader or of a part of it.

        Args:
            loaders: The loaders of one stage.
            *place: Numbers such as the run's seed and the epoch, 0 or more each.
        """
        for generator in _find(loaders):
            known = self._known.setdefault(id(generator), (generator, _fingerprint(generator)))
            _seed(generator, derive_seed(Stream.GENERATOR, *place, known[1]))


def _find(loaders: Iterable[Any]) -> Iterator[Any]:
    """Return the generators of loaders and of their parts, each once, in a fixed order."""
    holders, seen = list(loaders), set()
    for holder in holders:  # grows meanwhile
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        attributes = getattr(holder, "__dict__", {})
        holders += [attributes[name] for name in _PARTS if attributes.get(name) is not None]
        for value in attributes.values():
            is_global = value is torch.default_generator or value is np.random.mtrand._rand
            if isinstance(value, _KINDS) and not is_global and id(value) not in seen:
                seen.add(id(value))
                yield value


def _fingerprint(generator: Any) -> int:
    if isinstance(generator, torch.Generator):
        return zlib.crc32(str(generator.initial_seed()).encode())
    if isinstance(generator, np.random.Generator):
        return zlib.crc32(pickle.dumps(generator.bit_generator.state))
    state = generator.getstate() if isinstance(generator, random.Random) else generator.get_state()
    return zlib.crc32(pickle.dumps(state))


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed % 2**32)
