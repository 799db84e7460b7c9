"""Reproducible splits of labelled images: the same on every machine and in every release."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def shuffled_by_class(labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Shuffle the positions of each class in an order that depends on ``seed`` alone.

    Python guarantees that ``random.Random(seed).random()`` gives the same sequence in every version
    (https://docs.python.org/3/library/random.html#notes-on-reproducibility). Neither torch nor NumPy
    promises this for its permutations, and a run resumed after an upgrade must not train on its validation
    images.

    Args:
        labels: The class of each image.
        seed: Seed of the order.

    Returns:
        The positions in ``labels`` of each class; classes are in ascending order.
    """
    generator = random.Random(seed)
    return _by_class(labels, np.array([generator.random() for _ in labels]))


def ordered_by_name(labels: Sequence[int], names: Sequence[str], seed: int) -> dict[int, list[int]]:
    """Order the positions of each class by hashes of the names, whatever other images there are.

    Args:
        labels: The class of each image.
        names: A name of each image. Those that differ in their Unicode form alone, as file systems and
            archives change it, have one hash.
        seed: Seed of the order.

    Returns:
        The positions in ``labels`` of each class; classes are in ascending order.
    """
    hashes = b"".join(_hash(f"{seed}/{name}") for name in names)
    return _by_class(labels, np.frombuffer(hashes, ">u8"))


def _hash(text: str) -> bytes:
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return hashlib.blake2b(composed.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _by_class(labels: Sequence[int], keys: NDArray[Any]) -> dict[int, list[int]]:
    positions: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for position in keys.argsort(kind="stable").tolist():
        positions[labels[position]].append(position)
    return positions


def stratified_split(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Hold out fractions of every class; see ``hold_out``.

    Args:
        labels: int64 (M,), the class of each image.
        fractions: Fraction of each class that goes to each split, each in [0, 1).
        seed: Seed of the choice; nothing else influences it.
    """
    return hold_out(shuffled_by_class(labels.tolist(), seed), fractions)


def hold_out(by_class: Mapping[int, Sequence[int]], fractions: Sequence[float]) -> list[Tensor]:
    """Hold out fractions of every class, from the beginning of its order.

    Of a class with n images, a fraction takes ``round(n * fraction)`` and at least one, unless it is 0. The
    remainder always keeps at least one image, so a class with one image is in the remainder only.

    Args:
        by_class: The positions of the images of each class, in an order.
        fractions: Fraction of each class that goes to each split, each in [0, 1).

    Returns:
        The remainder, then one split per fraction: disjoint int64 positions in ascending order.
    """
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for positions in by_class.values():
        start = 0
        for part, fraction in zip(parts[1:], fractions, strict=True):
            wanted = max(1, round(len(positions) * fraction)) if fraction else 0
            count = min(wanted, len(positions) - 1 - start)
            part += positions[start : start + count]
            start += count
        parts[0] += positions[start:]
    return [torch.tensor(sorted(part), dtype=torch.int64) for part in parts]


def choose_per_class(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose the same number of images from every class.

    With the same seed, a smaller choice is a subset of a larger one.

    Args:
        labels: int64 (M,), the class of each image.
        count: Images per class; all images of a smaller class.
        seed: Seed of the choice; nothing else influences it.

    Returns:
        int64 positions in ascending order.
    """
    chosen = [positions[:count] for positions in shuffled_by_class(labels.tolist(), seed).values()]
    return torch.tensor(sorted(chain.from_iterable(chosen)), dtype=torch.int64)
