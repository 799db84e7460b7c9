"""The gates of every attention module, recorded while images pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cbam_lightning.explain.evaluating import evaluating


@dataclass(frozen=True)
class Gates:
    """What an attention module multiplied a feature map with.

    Attributes:
        module: Its name in the network.
        channel: A factor for each channel, (N, C), or ``None`` if it has none.
        spatial: A factor for each position, (N, *positions), or ``None``.
    """

    module: str
    channel: Tensor | None
    spatial: Tensor | None


@contextmanager
def record_gates(network: nn.Module) -> Iterator[list[Gates]]:
    """Record gates in the order in which images reach them; the network is evaluated meanwhile.

    A gate that depends on channel and position, as BAM's does, is recorded as its means over either.
    Self-attention (SAGAN) has no gates. The hooks are gone afterwards, also after an exception.

    Args:
        network: With or without attention of this package.

    Yields:
        A list that grows with every forward pass.
    """
    found: list[Gates] = []

    def hook(name: str, module: Any, args: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            found.append(_gates(name, module.gate_maps(args[0].detach())))

    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        for name, module in gated_modules(network).items():
            handle = module.register_forward_pre_hook(lambda m, args, name=name: hook(name, m, args))
            stack.callback(handle.remove)
        yield found


def gated_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the attention modules that have gates, by name; a half of one is not counted by itself."""
    gated = {name: module for name, module in network.named_modules() if hasattr(module, "gate_maps")}
    return {name: module for name, module in gated.items() if not _inside(name, gated)}


def _inside(name: str, others: dict[str, nn.Module]) -> bool:
    return any(name.startswith(f"{other}.") for other in others if other) or ("" in others and name != "")


def _gates(name: str, maps: dict[str, Tensor]) -> Gates:
    if "both" in maps:  # (N, C, *positions)
        both = maps["both"]
        return Gates(name, both.flatten(2).mean(2), both.mean(1))
    channel, spatial = maps.get("channel"), maps.get("spatial")
    return Gates(
        name,
        channel.flatten(1) if channel is not None else None,  # from (N, C, 1, ...)
        spatial[:, 0] if spatial is not None else None,  # from (N, 1, *positions)
    )
