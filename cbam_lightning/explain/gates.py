"""The gates of every attention module, recorded during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cbam_lightning.explain.evaluation_mode import evaluation_mode


@dataclass(frozen=True)
class Gates:
    """The factors by which a module multiplied a feature map, or where its self-attention looked.

    Attributes:
        module: Name of the module in the network.
        channel: One factor per channel, (N, C), or ``None`` if the module has no channel gate.
        spatial: One factor per position, (N, *positions), or ``None``.
        attention: How much attention each position received, (N, *positions), or ``None`` if the module has
            no self-attention. It is no factor but a share of all attention, times the number of positions:
            its mean is 1.
    """

    module: str
    channel: Tensor | None = None
    spatial: Tensor | None = None
    attention: Tensor | None = None

    @property
    def maps(self) -> dict[str, Tensor]:
        """What there is of ``channel``, ``spatial`` and ``attention``, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {name: value for name, value in values.items() if value is not None}

    def of_image(self, index: int) -> Gates:
        """Return the gates of one image of the batch, without the axis of the batch, on the CPU."""
        return Gates(self.module, **{name: x[index].float().cpu() for name, x in self.maps.items()})


@contextmanager
def record_gates(network: nn.Module) -> Iterator[list[Gates]]:
    """Record gates in the order of the forward pass; the network is in evaluation mode meanwhile.

    A gate that depends on channel and position, such as BAM's, is recorded as its mean over each of the two.
    Self-attention has no gates; recorded is how much attention each position received. The hooks are removed
    on exit, also after an exception.

    Args:
        network: With or without attention of this package.

    Yields:
        A list that grows with every forward pass.
    """
    recorded: list[Gates] = []

    def hook(name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch.no_grad():
            recorded.append(_gates(name, module.gate_maps(*args, **kwargs)))

    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(network))
        for name, module in gated_modules(network).items():
            handle = module.register_forward_pre_hook(partial(hook, name), with_kwargs=True)
            stack.enter_context(handle)
        yield recorded


def gated_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost modules with gates or self-attention, by name; parts do not count separately."""
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
    # (N, C, 1, ...), (N, 1, *positions), (N, 1, *positions)
    channel, spatial, attention = map(maps.get, ("channel", "spatial", "attention"))
    return Gates(
        name,
        None if channel is None else channel.flatten(1),
        None if spatial is None else spatial[:, 0],
        None if attention is None else attention[:, 0],
    )
