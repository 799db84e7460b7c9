"""Digests that tell the images of one data set from those of another."""

from __future__ import annotations

import hashlib
import os
import unicodedata

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_ASCII = 128  # the number of its characters
_SAMPLED_IMAGES = 64  # a data set that was made anew differs in any of them


def digest_of_names(names: NDArray[np.bytes_]) -> str:
    """Return a digest of the names of images, in their order.

    The folder that holds all of them does not count, so that a data set may be moved, nor does the Unicode
    form of the names, which file systems and archives change.

    Args:
        names: (M,), paths with slashes, or other names.
    """
    letters = _letters(names)
    if (letters >= _ASCII).any():
        composed = [unicodedata.normalize("NFC", os.fsdecode(name)) for name in names.tolist()]
        letters = _letters(np.array([name.encode("utf-8", "surrogateescape") for name in composed]))
    differing = (letters != letters[:1]).any(0).nonzero()[0]
    shared = letters[:1, : int(differing.min(initial=letters.shape[1]))].tobytes()
    return _hexadecimal(letters[:, shared.rfind(b"/") + 1 :].tobytes())


def _letters(names: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    """Return the bytes of the names: (M, length of the longest), filled up with zeros."""
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), names.itemsize)
    lengths = np.char.str_len(names)
    return letters[:, : int(lengths.max(initial=0))]


def digest_of_arrays(name: str, *values: Tensor, images: Tensor | None = None) -> str:
    """Return a digest of images in memory: of what is given for all of them, and of a few images.

    Args:
        name: Name of the part that they are from.
        *values: int64 (M,), such as their labels.
        images: (K, ...), uint8.
    """
    sample = [] if images is None else [images[:: max(1, len(images) // _SAMPLED_IMAGES)]]
    return _hexadecimal(name.encode(), *(each.numpy().tobytes() for each in (*values, *sample)))


def _hexadecimal(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
