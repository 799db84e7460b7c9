"""Modules with attention after their output.

A module gets attention by a change of its class, to a subclass that applies its child ``attention`` to what
``forward`` returns. So it stays the same object with the same names, ``torch.compile`` sees the change, and
what looks for the exact class of a layer, such as the fusion of convolution and BatchNorm, leaves it alone.

What replaces such a module, as the conversions of BatchNorm do, takes the attention over.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

CHILD = "attention"
_AXIS = "follows_axis"  # attribute of an inserted attention: the axis of the channels in its host's output
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


class Attended(nn.Module):
    """Base of the classes of modules with attention after their output; see ``attend``."""

    attention: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the attended output of the module."""
        output: Any = super().forward(*args, **kwargs)
        attention, axis = self.attention, getattr(self.attention, _AXIS)
        if isinstance(output, torch.fx.Proxy):  # symbolic tracing takes the attention as one operation
            return cast(Tensor, _traced(attention, axis, output))
        if axis == 1:
            return cast(Tensor, attention(output))
        return cast(Tensor, attention(output.movedim(axis, 1)).movedim(1, axis).contiguous())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Name the plain class instead of this one, which exists in this process only."""
        reduced: Any = super().__reduce_ex__(protocol)
        return _create, (plain_class(type(self)),), *reduced[2:]


def attend(host: nn.Module, attention: nn.Module, channel_axis: int = 1) -> None:
    """Apply attention to the output of a module.

    Args:
        host: Gets the child ``attention`` and a subclass of its class.
        attention: Takes and returns (N, C, *positions).
        channel_axis: Axis of the channels in the output of the host.
    """
    setattr(attention, _AXIS, channel_axis)
    host.add_module(CHILD, attention)


def attended_class(plain: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a class of modules whose ``forward`` ends in attention; always the same one."""
    if plain not in _CLASSES:
        members = {
            "__module__": plain.__module__,
            "__qualname__": plain.__qualname__,
            "__doc__": plain.__doc__,
        }
        _CLASSES[plain] = type(plain.__name__, (Attended, plain), members)
    return _CLASSES[plain]


def plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a module without attention."""
    return kind.__bases__[1] if issubclass(kind, Attended) else kind


def change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Make a module one of another class, with the attention that it has."""
    module.__class__ = attended_class(kind) if isinstance(module, Attended) else kind


def _create(plain: type[nn.Module]) -> nn.Module:
    kind = attended_class(plain)
    return kind.__new__(kind)


def _traced(attention: nn.Module, axis: int, output: Any) -> Any:
    tracer = output.tracer
    moved = output if axis == 1 else output.movedim(axis, 1)
    attended = tracer.create_proxy("call_module", tracer.path_of_module(attention), (moved,), {})
    return attended if axis == 1 else attended.movedim(1, axis).contiguous()


def _follow(parent: nn.Module, name: str, module: nn.Module | None) -> None:
    """Keep attention with its host; torch calls this before it makes ``module`` the child ``name``.

    https://pytorch.org/docs/stable/generated/torch.nn.modules.module.register_module_module_registration_hook.html
    """
    if name == CHILD and hasattr(module, _AXIS) and not isinstance(parent, Attended):
        parent.__class__ = attended_class(type(parent))
    replaced = parent._modules.get(name)
    if not isinstance(replaced, Attended) or module is None or isinstance(module, Attended):
        return
    if not hasattr(module, CHILD) and replaced not in module.modules():
        attend(module, replaced.attention, getattr(replaced.attention, _AXIS))


register_module_module_registration_hook(_follow)
