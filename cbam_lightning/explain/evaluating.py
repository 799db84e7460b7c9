"""Looking into a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and at the end back into the mode that it was in.

    Nothing compiled runs meanwhile, since hooks may not see what goes on inside.

    Args:
        network: Its BatchNorms use their running statistics meanwhile, and leave them as they are.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
