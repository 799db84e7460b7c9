"""Inspecting a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and restore the previous modes on exit.

    Compiled code does not run in the meantime, because hooks may not see what happens inside it.

    Args:
        network: Its BatchNorms use their running statistics and leave them unchanged.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
