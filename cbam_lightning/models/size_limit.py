"""A limit for networks that a file describes: a header of a few bytes can ask for all the memory there is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from cbam_lightning.checks import is_whole
from cbam_lightning.errors import UsageError

# A network may be built with parts that it drops again, such as the auxiliary heads of GoogLeNet, and with
# attention that the file lacks.
_FACTOR = 4
_ANY_VALUES, _ANY_TENSORS = 1 << 24, 1000
# Inputs of a last layer; VGG has 4096.
_MOST_FEATURES = 1 << 13
# 8 GB in float32: larger than any network that has convolutional attention.
_OTHER_VALUES, _OTHER_TENSORS = 1 << 31, 100_000


class _TooLargeError(Exception):
    """Not a ``UsageError``, which builders of networks turn into one of their own."""


@contextmanager
def no_larger_than(
    state_dict: Mapping[str, Tensor],
    source: str,
    num_classes: int | None = None,
    other_network: bool = False,
) -> Iterator[None]:
    """Refuse to build networks that are far larger than a file.

    Torch tells of every parameter and buffer before its values are written, so none of them takes memory yet.

    Args:
        state_dict: The values of the file.
        source: Name of the file in error messages.
        num_classes: Number of classes, if it is the user's and not the file's.
        other_network: Whether the network is the user's, and only its attention may be that of the file.

    Raises:
        UsageError: The network has far more values or tensors than the file.
    """
    known = sum(value.numel() for value in state_dict.values())
    values = _FACTOR * known + _ANY_VALUES + _MOST_FEATURES * (num_classes if is_whole(num_classes) else 0)
    tensors = _FACTOR * len(state_dict) + _ANY_TENSORS
    if other_network:
        values, tensors = max(values, _OTHER_VALUES), max(tensors, _OTHER_TENSORS)
    try:
        with _counting(values, tensors):
            yield
    except (_TooLargeError, MemoryError, OverflowError, RuntimeError, TypeError) as error:
        # torch says in these words what no machine has
        is_about_size = re.search("allocate memory|overflow", str(error), re.IGNORECASE)
        if not is_about_size and not isinstance(error, (_TooLargeError, MemoryError)):
            raise
        raise UsageError(
            f"{source} has a damaged header, or the options do not belong to it: the network would be far "
            f"larger than the {known:,} values in {len(state_dict):,} tensors of the file. See what it says "
            "with `cbam-lightning weights show`."
        ) from error


@contextmanager
def _counting(values: int, tensors: int) -> Iterator[None]:
    left = [values, tensors]

    def count(module: nn.Module, name: str, tensor: Any) -> None:
        if isinstance(tensor, Tensor):
            left[:] = left[0] - tensor.numel(), left[1] - 1
            if min(left) < 0:
                raise _TooLargeError

    with ExitStack() as stack:
        stack.callback(register_module_parameter_registration_hook(count).remove)
        stack.callback(register_module_buffer_registration_hook(count).remove)
        yield
