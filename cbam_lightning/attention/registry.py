"""Attention modules by name, or by the import path of a class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args, overload

import torch
from torch import nn

from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.sagan import SAGAN
from cbam_lightning.attention.squeeze_excite import SqueezeExcite
from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.seeding import own_stream
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

Placement = Literal["block", "stage"]
Builder = Callable[..., nn.Module]
_B = TypeVar("_B", bound=Builder)

_CHANNELS = "channels"  # the first argument of every class
_PROBE_PX = 8  # side of the maps that a user's module is tried on


class Attention(NamedTuple):
    """What is known of an attention module: how to build it, and where networks put it by default."""

    builder: Builder
    placement: Placement = "block"


_ATTENTION: dict[str, Attention] = {
    "bam": Attention(BAM, "stage"),
    "cbam": Attention(CBAM),
    "eca": Attention(ECA),
    "none": Attention(nn.Identity),
    "sagan": Attention(SAGAN, "stage"),
    "se": Attention(SqueezeExcite),
}
_OURS = frozenset(_ATTENTION)


@overload
def register_attention(name: str, builder: _B, *, placement: Placement = "block") -> _B: ...
@overload
def register_attention(name: str, *, placement: Placement = "block") -> Callable[[_B], _B]: ...
def register_attention(name: str, builder: Any = None, *, placement: Placement = "block") -> Any:
    """Give an attention module of yours a name; as a function, or as a decorator of the class.

    An attention module is a ``torch.nn.Module`` whose first argument is ``channels``, and whose ``forward``
    maps (N, C, *positions) to the same shape. Nothing else is asked of it. Further arguments are its options,
    as in ``attention_options={"reduction": 8}``. It may have more: with an argument ``dims`` it is told
    whether positions are (L,), (H, W) or (D, H, W); with an argument ``gate`` that takes ``"identity"`` it
    can start as the identity where it is inserted into a trained network; with an argument
    ``implementation`` it can be ``"reference"`` or ``"fused"``; and a method ``gate_maps(x)`` that returns a
    dictionary of gates lets ``explain`` draw them. Without a name it is known by its import path,
    ``my_package.MyAttention``, wherever a name is taken.

    Args:
        name: What to call it, other than the names of ``list_attention()`` and without dots and slashes.
        builder: The class, or a function that returns the module; left out, it is what is decorated.
        placement: Where networks put it unless told otherwise: ``block``, at the end of every residual
            branch, or ``stage``, after every stage but the last.

    Raises:
        UsageError: The name is taken or no name, the placement is unknown, or there is no ``channels``.
    """
    if builder is None:
        return lambda decorated: register_attention(name, decorated, placement=placement)
    check_choice("placement", placement, get_args(Placement))
    known = _ATTENTION.get(name)
    if not name or {".", "/"} & {*name} or name in _OURS or (known and _differ(known.builder, builder)):
        message = (
            f"an attention cannot be called {name!r}: it is empty, has a dot or a slash, or is taken. "
            f"Choose a name other than {', '.join(list_attention())}."
        )
        raise UsageError(message)
    _check_channels(name, builder)
    _ATTENTION[name] = Attention(builder, placement)
    return builder


def list_attention() -> list[str]:
    """Return every name that ``create_attention`` knows, sorted; it takes import paths of classes as well."""
    return sorted(_ATTENTION)


def default_placement(name: str) -> Placement:
    """Return where a network puts this attention: on every residual branch, or after stages.

    Raises:
        UsageError: An unknown name.
    """
    return _find(name).placement


def option_names(name: str) -> frozenset[str]:
    """Return what the attention's class accepts besides ``channels``; empty for ``none``.

    Raises:
        UsageError: An unknown name.
    """
    return frozenset(_options(name))


def option_defaults(name: str) -> dict[str, Any]:
    """Return the values that the options of ``option_names(name)`` have when they are left out.

    Raises:
        UsageError: An unknown name.
    """
    found = _options(name).items()
    return {option: p.default for option, p in sorted(found) if p.default is not p.empty}


def create_attention(name: str, channels: int, /, **options: Any) -> nn.Module:
    """Build an attention module, (N, C, *positions) to the same, by its name.

    Positions are (L,), (H, W) or (D, H, W); a module with an option ``dims`` is made for one of them, by
    default for (H, W). Its initial values depend on torch's generator, which goes on by one number whatever
    the module draws.

    Args:
        name: One of ``list_attention()``, where ``none`` is the identity, or the import path of a class.
        channels: C, the number of channels of the input.
        options: What the module's class accepts besides ``channels``.

    Raises:
        UsageError: An unknown name, an option that this attention does not have, or a value it refuses.
    """
    import_class_path(name, "attention")
    return build_attention(name, channels, **options)


def build_attention(name: str, channels: int, /, **options: Any) -> nn.Module:
    """Do what ``create_attention`` does, but import nothing: the name may be one that a checkpoint says.

    Raises:
        UsageError: As for ``create_attention``; or the class was not imported before.
    """
    _check_options(name, options)
    if name == "none":
        return nn.Identity()
    with own_stream():
        module = _find(name).builder(channels, **options)
        if name not in _OURS:
            _check_module(name, module, channels, options.get("dims", 2))
    return module


def _find(name: str) -> Attention:
    if name in _ATTENTION:
        return _ATTENTION[name]
    found = find_class(name)
    if found is None:
        unknown = unknown_name(kind="attention", given=name, allowed=_ATTENTION)
        message = f"{unknown} {_how_to_import(name)}"
        raise UsageError(message)
    if not issubclass(found, nn.Module):
        message = f"attention {name!r} is no torch.nn.Module; give the import path of one."
        raise UsageError(message)
    _check_channels(name, found)
    return Attention(found)


def _how_to_import(name: str) -> str:
    if is_class_path(name):
        return f"It is the path of a class that is not imported: --imports {name.rpartition('.')[0]}."
    return "Or the import path of a class, or a name that your module registers (--imports MODULE)."


def _options(name: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of an attention besides ``channels`` that have names."""
    if name == "none":
        return {}
    parameters = list(inspect.signature(_find(name).builder).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = _options(name)
    if name == "none" and options:
        message = (
            f"attention 'none' has no options, but was given {', '.join(sorted(options))}. "
            f"Remove them, or choose one of {', '.join(n for n in list_attention() if n != 'none')}."
        )
        raise UsageError(message)
    parameters = inspect.signature(_find(name).builder).parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option == _CHANNELS or (option not in known and not open_ended):
            raise unknown_name(kind=f"{name} option", given=option, allowed=known)
    missing = [o for o, p in known.items() if p.default is p.empty and o not in options]
    if missing and name != "none":
        message = f"{name} needs {' and '.join(missing)}: give attention_options, such as {missing[0]}: …"
        raise UsageError(message)


def _check_channels(name: str, builder: Builder) -> None:
    names = list(inspect.signature(builder).parameters)
    if names[:1] != [_CHANNELS]:
        message = (
            f"attention {name!r} takes ({', '.join(names)}); its first argument has to be called channels, "
            "the number of channels that go in and come out."
        )
        raise UsageError(message)


@torch.no_grad()
def _check_module(name: str, module: Any, channels: int, dims: int) -> None:
    """Refuse what is no module, or returns another shape for small maps."""
    if not isinstance(module, nn.Module):
        message = f"attention {name!r} gave {type(module).__name__}, not a torch.nn.Module."
        raise UsageError(message)
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
        message = (
            f"attention {name!r} turns {tuple(example.shape)} into {gave}; its output has to have the shape "
            "of its input."
        )
        raise UsageError(message)


def _differ(one: Builder, other: Builder) -> bool:
    """Tell whether these are two definitions, and not one that was run again in a notebook."""
    return _origin(one) != _origin(other)


def _origin(builder: Builder) -> tuple[Any, Any]:
    return getattr(builder, "__module__", None), getattr(builder, "__qualname__", builder)
