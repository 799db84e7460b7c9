"""What an attention module of the user's has to be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cbam_lightning.attention.positions import check_dims
from cbam_lightning.errors import UsageError

CHANNELS = "channels"  # the first argument of every class
_PROBE_PX = 8  # side of the maps that modules are tried on


def check_channels(name: str, builder: Callable[..., nn.Module]) -> None:
    """Raise a ``UsageError`` unless the first argument is ``channels``."""
    names = list(inspect.signature(builder).parameters)
    if names[:1] != [CHANNELS]:
        raise UsageError(
            f"attention {name!r} takes ({', '.join(names)}); its first argument has to be called channels, "
            "the number of channels of its input and output."
        )


@torch.no_grad()
def check_module(name: str, module: Any, channels: int, dims: Any) -> None:
    """Raise a ``UsageError`` unless this is a module that keeps the shape of a small map.

    Args:
        name: Of the attention.
        module: What its class returned.
        channels: C, the number of channels of the map.
        dims: Its number of position dimensions; two, if the module has no such option.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"attention {name!r} returned {type(module).__name__}, not a torch.nn.Module.")
    if dims is None:
        dims = 2
    check_dims(dims)
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.ones((2, channels, *(_PROBE_PX,) * dims), device=parameter.device, dtype=parameter.dtype)
    training = module.training
    try:
        output = module.eval()(example)
    except Exception:
        return
    finally:
        module.train(training)
    shape = getattr(output, "shape", None)
    if shape != example.shape:
        gave = type(output).__name__ if shape is None else tuple(shape)
        raise UsageError(
            f"attention {name!r} turns {tuple(example.shape)} into {gave}; its output has to have the shape "
            "of its input."
        )
