"""Looking into a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and at the end back into the mode that it was in.

    Args:
        network: Its BatchNorms use their running statistics meanwhile, and leave them as they are.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
