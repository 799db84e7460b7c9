"""Whether a module still is what a fused form was derived for, or somebody has a say in what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from cbam_lightning.attention.cbam import CBAM, ChannelAttention, SpatialAttention
from cbam_lightning.attention.positions import BATCH_NORMS, CONVOLUTIONS
from cbam_lightning.attention.squeeze_excite import SqueezeExcite

Kind = TypeVar("Kind", bound=nn.Module)

# Methods whose results a fused form reproduces without calling them.
_METHODS = ("forward", "gate_map", "compute_gate", "sigmoid", "_conv_forward")
_ATTENTION = (CBAM, ChannelAttention, SpatialAttention, SqueezeExcite)
_LAYERS = (nn.Sequential, nn.Linear, nn.ReLU, nn.Identity, *CONVOLUTIONS.values(), *BATCH_NORMS.values())


def _methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: getattr(kind, name) for name in _METHODS if hasattr(kind, name)}


# As they were when this file was imported: a class, too, can be changed afterwards.
_ORIGINALS: dict[type, dict[str, Callable[..., Any]]] = {
    kind: _methods(kind) for kind in (*_ATTENTION, *_LAYERS, nn.SyncBatchNorm)
}
# Kinds of BatchNorm whose batch is that of all processes.
_SYNCHRONISED: set[type] = {nn.SyncBatchNorm}


def register_synchronised(kind: type[Kind]) -> type[Kind]:
    """Decorate a BatchNorm that computes what ``nn.SyncBatchNorm`` computes."""
    _ORIGINALS[kind] = _methods(kind)
    _SYNCHRONISED.add(kind)
    return kind


def batch_norm_kinds() -> tuple[type, ...]:
    """Return the known kinds of BatchNorm."""
    return (*BATCH_NORMS.values(), *_SYNCHRONISED)


def is_synchronised(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm whose batch is that of all processes."""
    return type(module) in _SYNCHRONISED


def is_original(module: object, kinds: type | Iterable[type]) -> bool:
    """Return whether a module is of exactly one of these classes and computes what the class computed.

    It does not if the class is a subclass (as after ``parametrize.register_parametrization``), or if a method
    was replaced on the module or on its class.
    """
    kind = type(module)
    if kind is not kinds and (isinstance(kinds, type) or kind not in kinds):
        return False
    own = vars(module)
    for name, original in _ORIGINALS[kind].items():  # a plain loop: this runs at every call of a module
        if name in own or getattr(kind, name) is not original:
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Return whether a hook is registered on this very module or on all modules, not on one below it."""
    on_all: bool = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(
        on_all
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_plain(module: object, kinds: type | Iterable[type]) -> bool:
    """Return whether a module is original and has no hook, so that nobody sees that it is not called."""
    return is_original(module, kinds) and isinstance(module, nn.Module) and not has_hooks(module)
