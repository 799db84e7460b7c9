"""The gates of every attention module, recorded during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cbam_lightning.explain.evaluation_mode import evaluation_mode


@dataclass(frozen=True)
class Gates:
    """The factors by which an attention module multiplied a feature map.

    Attributes:
        module: Name of the module in the network.
        channel: One factor per channel, (N, C), or ``None`` if the module has no channel gate.
        spatial: One factor per position, (N, *positions), or ``None``.
    """

    module: str
    channel: Tensor | None
    spatial: Tensor | None

    def of_image(self, index: int) -> Gates:
        """Return the gates of one image of the batch: channel (C,), spatial (*positions), on the CPU."""
        channel, spatial = (
            None if values is None else values[index].float().cpu() for values in (self.channel, self.spatial)
        )
        return Gates(self.module, channel, spatial)


@contextmanager
def record_gates(network: nn.Module) -> Iterator[list[Gates]]:
    """Record gates in the order of the forward pass; the network is in evaluation mode meanwhile.

    A gate that depends on channel and position, such as BAM's, is recorded as its mean over each of the two.
    Self-attention (SAGAN) has no gates. The hooks are removed on exit, also after an exception.

    Args:
        network: With or without attention of this package.

    Yields:
        A list that grows with every forward pass.
    """
    recorded: list[Gates] = []

    def hook(name: str, module: Any, args: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            recorded.append(_gates(name, module.gate_maps(args[0].detach())))

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(network))
        for name, module in gated_modules(network).items():
            stack.enter_context(module.register_forward_pre_hook(partial(hook, name)))
        yield recorded


def gated_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost modules that have gates, by name; the parts of a CBAM do not count separately."""
    gated: dict[str, nn.Module] = {}
    parts: set[nn.Module] = set()
    for name, module in network.named_modules():
        if hasattr(module, "gate_maps") and module not in parts:
            gated[name] = module
            parts.update(module.modules())
    return gated


def _gates(name: str, maps: dict[str, Tensor]) -> Gates:
    if "both" in maps:  # (N, C, *positions)
        both = maps["both"]
        return Gates(name, both.flatten(2).mean(2), both.mean(1))
    channel, spatial = maps.get("channel"), maps.get("spatial")  # (N, C, 1, ...), (N, 1, *positions)
    channel = None if channel is None else channel.flatten(1)
    return Gates(name, channel, None if spatial is None else spatial[:, 0])
