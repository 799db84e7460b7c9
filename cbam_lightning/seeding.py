"""Random numbers that depend only on the run's seed and on the place in the run.

No generator's state has to be saved: the same numbers are drawn at the same place in a resumed run, with
other worker processes and on other devices.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray


class Stream(IntEnum):
    """Uses of random numbers, which are independent of each other."""

    ORDER = 0  # of the images of an epoch
    IMAGES = 1  # cropping and flipping
    MIXING = 2  # mixup and cutmix
    STEP = 3  # the rest of a training step, such as dropout
    SCENES = 4  # generated images, which do not depend on the run's seed
    LOADING = 5  # a user's loaders and data sets
    EPOCH = 6  # the hooks at the beginning of an epoch
    VALIDATION = 7  # the hooks at the beginning of a validation
    VALIDATION_LOADING = 8
    GENERATOR = 9  # a user's generators


def run_seed() -> int:
    """Return the seed of the run: that of ``seed_everything``, else torch's, which differs every time."""
    seed = os.environ.get("PL_GLOBAL_SEED")  # Lightning's name
    return torch.initial_seed() if seed is None else int(seed)


def derive_seed(stream: Stream, *place: int) -> int:
    """Return a seed in [0, 2^63) for a place, independent of those of all other places.

    Args:
        stream: Use of the random numbers.
        *place: Numbers such as the run's seed, the epoch, the batch and the device, 0 or more each.
    """
    return int(np.random.SeedSequence((*place, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def image_seeds(base: int, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a seed for each image of a data set, independent of its batch and device.

    Output number i of SplitMix64 (https://doi.org/10.1145/2714064.2660195, figure 17), which needs no
    memory for other images.

    Args:
        base: Seed of the epoch, in [0, 2^64).
        indices: (N,), positions in the data set.

    Returns:
        (N,), with all bits random.
    """
    state = np.uint64(base) + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on all devices that are in use.

    ``torch.manual_seed`` formats the whole call stack for every kind of device that is not, a millisecond in
    the depths of a trainer.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - transforms and layers of users draw from it
    torch.default_generator.manual_seed(seed)
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        if kind.is_initialized():
            kind.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def spared_generator() -> Iterator[torch.Generator]:
    """Return torch's global CPU generator for seeding, and restore it afterwards."""
    state = torch.get_rng_state()
    try:
        yield torch.default_generator
    finally:
        torch.set_rng_state(state)


@contextmanager
def spared_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch's CPU, and restore them afterwards.

    This is for user-defined code, which may use any of them: it takes a quarter of a millisecond, 20 times as
    long as seeding torch's generator alone.

    Args:
        seed: In [0, 2^64).
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with spared_generator() as generator:
            generator.manual_seed(seed)
            random.seed(seed)
            # torch uses the lower half: with one seed, both would draw the same bits
            np.random.seed(seed >> 32)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def own_stream() -> Iterator[None]:
    """Seed torch's global CPU generator with one number drawn from it, and continue after that number.

    What is drawn within does not affect what is drawn afterwards: two networks that differ in one part have
    the same initial values in all others.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=torch.default_generator, device="cpu"))
    with spared_generator() as generator:
        generator.manual_seed(seed)
        yield
