"""Values that a checkpoint may hold: tensors and plain Python only, so that reading one runs no code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plain_copy(value: Any) -> Any:
    """Return a copy on the CPU of tensors, numbers, text, and lists, tuples and dictionaries of them.

    Raises:
        TypeError: The value contains something else; the message is its class.
    """
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).cpu().clone()
    if isinstance(value, dict):
        return {plain_copy(key): plain_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain_copy(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, torch.dtype) or type(value) in (bool, int, float, str, bytes):
        return value
    raise TypeError(type(value).__name__)
