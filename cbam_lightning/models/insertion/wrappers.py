"""Wrappers around a network: which one attention looks through, and which ones it refuses."""

from __future__ import annotations

import torch
from torch import nn

from cbam_lightning.errors import UsageError


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network itself, which ``torch.compile`` may have wrapped.

    Raises:
        UsageError: It is no module, one of TorchScript, or in a wrapper that trains in parallel.
    """
    network = getattr(network, "_orig_mod", network)
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise UsageError(f"network is a {kind}; pass a torch.nn.Module.")
    if isinstance(network, torch.jit.ScriptModule):
        raise UsageError(
            f"{kind} is TorchScript, whose code is fixed. Insert attention into the network that it was made "
            "from."
        )
    if "Parallel" in kind and isinstance(getattr(network, "module", None), nn.Module):
        raise UsageError(
            f"the network is wrapped in {kind}. Insert attention before wrapping: "
            "insert_attention(network.module, …), then wrap the result."
        )
    return network
