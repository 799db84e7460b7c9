"""Dividing one set of labelled images into parts, the same way on every machine and in every release."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor


def shuffled_by_class(labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Put the positions of each class in a random order that depends on ``seed`` alone.

    Python guarantees that ``random.Random(seed).random()`` gives the same sequence in every version
    (https://docs.python.org/3/library/random.html#notes-on-reproducibility). Neither torch nor NumPy promise
    that of their permutations, and a run resumed after an upgrade must not train on its validation images.

    Args:
        labels: The class of each image.
        seed: Seed of the order.

    Returns:
        For each class, in ascending order, its positions in ``labels``.
    """
    generator = random.Random(seed)
    keys = [generator.random() for _ in labels]
    positions: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for position in sorted(range(len(labels)), key=keys.__getitem__):
        positions[labels[position]].append(position)
    return positions


def stratified_split(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split off the given fractions of every class.

    Of a class with n images a fraction takes ``round(n * fraction)``, at least one unless the fraction is 0,
    but the remainder always keeps at least one image; so a class of one image is in the remainder only.

    Args:
        labels: int64 (M,), the class of each image.
        fractions: The part of each class that goes to each split, each in [0, 1).
        seed: Seed of the choice; nothing else influences it.

    Returns:
        The remainder, then one split for each fraction: disjoint int64 positions in ascending order.
    """
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for positions in shuffled_by_class(labels.tolist(), seed).values():
        start = 0
        for part, fraction in zip(parts[1:], fractions, strict=True):
            wanted = max(1, round(len(positions) * fraction)) if fraction else 0
            count = min(wanted, len(positions) - 1 - start)
            part += positions[start : start + count]
            start += count
        parts[0] += positions[start:]
    return [torch.tensor(sorted(part), dtype=torch.int64) for part in parts]


def choose_per_class(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose as many images of every class; fewer ones are among more ones, with the same seed.

    Args:
        labels: int64 (M,), the class of each image.
        count: Images of each class; of a smaller class all.
        seed: Seed of the choice; nothing else influences it.

    Returns:
        int64 positions in ascending order.
    """
    chosen = [positions[:count] for positions in shuffled_by_class(labels.tolist(), seed).values()]
    return torch.tensor(sorted(chain.from_iterable(chosen)), dtype=torch.int64)
