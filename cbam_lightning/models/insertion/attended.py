"""Modules with attention after their output.

A module gets attention by a change of its class, to a subclass that applies its child ``attention`` to what
``forward`` returns. So it stays the same object with the same names, ``torch.compile`` sees the change, and
what looks for the exact class of a layer, such as the fusion of convolution and BatchNorm, leaves it alone.

What replaces such a module, as the conversions of BatchNorm do, takes the attention over. Where that is not
possible, the network says at its next forward pass that the attention is gone.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

CHILD = "attention"
_AXIS = "follows_axis"  # attribute of an inserted attention: the axis of the channels in its host's output
_PLACES = "_attended_places"  # attribute of a network: the names of the modules with attention
_GONE = "it is gone, for other code replaced the module. Insert attention after such a conversion"
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


class Attended(nn.Module):
    """Base of the classes of modules with attention after their output; see ``attend``."""

    attention: nn.Module

    def __init_subclass__(cls) -> None:
        """Leave out what the plain class does with its subclasses, such as to register them by name."""

    def apply_attention(self, output: Any) -> Tensor:
        """Return the attended output of the module, or the plain one if other code made it of this class."""
        if CHILD not in self._modules:
            return cast(Tensor, output)
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


def watch(network: nn.Module, names: Sequence[str]) -> None:
    """Make a network tell before a forward pass if its modules with attention were replaced by others.

    Args:
        network: Has the modules.
        names: Of the modules.
    """
    before = vars(network).get(_PLACES)
    vars(network)[_PLACES] = (*(before or ()), *names)
    if before is None:
        network.register_forward_pre_hook(_tell_lost)


def attended_class(plain: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a class of modules whose ``forward`` ends in attention; always the same one."""
    if plain not in _CLASSES:

        @functools.wraps(plain.forward)  # whose arguments symbolic tracing reads
        def forward(self: Attended, *args: Any, **kwargs: Any) -> Tensor:
            return self.apply_attention(plain.forward(self, *args, **kwargs))

        members = {
            "__module__": plain.__module__,
            "__qualname__": plain.__qualname__,
            "__doc__": plain.__doc__,
        }
        _CLASSES[plain] = type(plain.__name__, (Attended, plain), {**members, "forward": forward})
    return _CLASSES[plain]


def plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a module without attention."""
    return next((plain for plain, attended in _CLASSES.items() if issubclass(kind, attended)), kind)


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
    replaced = parent._modules.get(name)
    if module is None or module is replaced:
        return
    if name == CHILD and isinstance(parent, Attended):
        vars(module).setdefault(_AXIS, vars(replaced or module).get(_AXIS, 1))
    elif name == CHILD and _AXIS in vars(module):
        parent.__class__ = attended_class(type(parent))
    elif isinstance(replaced, Attended) and not isinstance(module, Attended) and not hasattr(module, CHILD):
        others = (child for key, child in parent._modules.items() if key != name and child is not None)
        if not any(replaced is inner for child in (module, *others) for inner in child.modules()):
            attend(module, replaced.attention, getattr(replaced.attention, _AXIS))


def _tell_lost(network: nn.Module, inputs: Any) -> None:
    if torch.compiler.is_compiling():
        return
    places = vars(network)[_PLACES]
    changed = {name: what for name in places if (what := _what_happened(network, name))}
    if not changed:
        return
    vars(network)[_PLACES] = tuple(name for name in places if name not in changed)
    attended = sum(isinstance(module, Attended) for module in network.modules())
    for what in dict.fromkeys(changed.values()):
        if what != _GONE or attended < len(places):  # or else the modules moved, with their attention
            names = ", ".join(name for name in changed if changed[name] == what)
            warnings.warn(f"attention after {names}: {what}.", stacklevel=2)


def _what_happened(network: nn.Module, name: str) -> str | None:
    host: nn.Module | None = network
    for part in name.split("."):
        host = None if host is None else host._modules.get(part)
    if not isinstance(host, Attended) or CHILD not in host._modules:
        return _GONE
    if "forward" in vars(host):
        return "other code replaced the module's forward. It runs only if the new one calls the old one"
    return None


register_module_module_registration_hook(_follow)
