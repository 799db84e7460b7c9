"""Attention modules by name."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import nn

from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.sagan import SAGAN
from cbam_lightning.attention.squeeze_excite import SqueezeExcite
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.seeding import own_stream

# The first positional argument of every class is its number of channels.
_ATTENTION: dict[str, type[nn.Module]] = {
    "bam": BAM,
    "cbam": CBAM,
    "eca": ECA,
    "none": nn.Identity,
    "sagan": SAGAN,
    "se": SqueezeExcite,
}
_AFTER_STAGES = frozenset({"bam", "sagan"})

Placement = Literal["block", "stage"]


def list_attention() -> list[str]:
    """Return every name that ``create_attention`` knows, sorted."""
    return sorted(_ATTENTION)


def default_placement(name: str) -> Placement:
    """Return where a network puts this attention: on every residual branch, or after stages.

    Raises:
        UsageError: An unknown name.
    """
    _check_name(name)
    return "stage" if name in _AFTER_STAGES else "block"


def option_names(name: str) -> frozenset[str]:
    """Return what the attention's class accepts besides ``channels``; empty for ``none``.

    Raises:
        UsageError: An unknown name.
    """
    _check_name(name)
    if name == "none":
        return frozenset()
    return frozenset(inspect.signature(_ATTENTION[name]).parameters) - {"channels"}


def option_defaults(name: str) -> dict[str, Any]:
    """Return the values that the options of ``option_names(name)`` have when they are left out.

    Raises:
        UsageError: An unknown name.
    """
    options = option_names(name)
    parameters = inspect.signature(_ATTENTION[name]).parameters
    return {option: parameters[option].default for option in sorted(options)}


def create_attention(name: str, channels: int, /, **options: Any) -> nn.Module:
    """Build an attention module, (N, C, *positions) to the same, by its name.

    Positions are (L,), (H, W) or (D, H, W); a module with an option ``dims`` is made for one of them, by
    default for (H, W). Its initial values depend on torch's generator, which goes on by one number whatever
    the module draws.

    Args:
        name: One of ``list_attention()``; ``none`` is the identity.
        channels: C, the number of channels of the input.
        options: What the module's class accepts besides ``channels``.

    Raises:
        UsageError: An unknown name, an option that this attention does not have, or a value it refuses.
    """
    allowed = option_names(name)
    if name == "none":
        _refuse_any(options)
        return nn.Identity()
    for option in options:
        if option not in allowed:
            raise unknown_name(kind=f"{name} option", given=option, allowed=allowed)
    with own_stream():
        return _ATTENTION[name](channels, **options)


def _check_name(name: str) -> None:
    if name not in _ATTENTION:
        raise unknown_name(kind="attention", given=name, allowed=_ATTENTION)


def _refuse_any(options: dict[str, Any]) -> None:
    if options:
        message = (
            f"attention 'none' has no options, but was given {', '.join(sorted(options))}. "
            f"Remove them, or choose one of {', '.join(n for n in list_attention() if n != 'none')}."
        )
        raise UsageError(message)
