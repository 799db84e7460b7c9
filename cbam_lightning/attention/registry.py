"""Attention modules by name, or by the import path of their class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args, overload

import torch
from torch import nn

from cbam_lightning.attention.bam import BAM
from cbam_lightning.attention.cbam import CBAM
from cbam_lightning.attention.coordinate import CoordinateAttention
from cbam_lightning.attention.eca import ECA
from cbam_lightning.attention.effective_se import EffectiveSE
from cbam_lightning.attention.gather_excite import GatherExcite
from cbam_lightning.attention.global_context import GlobalContext
from cbam_lightning.attention.mhsa import MHSA
from cbam_lightning.attention.sagan import SAGAN
from cbam_lightning.attention.sca import SCA
from cbam_lightning.attention.scse import SCSE
from cbam_lightning.attention.simam import SimAM
from cbam_lightning.attention.squeeze_excite import SqueezeExcite
from cbam_lightning.attention.style_recalibration import SRM
from cbam_lightning.attention.triplet import TripletAttention
from cbam_lightning.attention.user_modules import CHANNELS, check_channels, check_module
from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError, unknown_name
from cbam_lightning.seeding import own_stream
from cbam_lightning.user_code.class_paths import find_class, import_class_path, is_class_path

Placement = Literal["block", "stage"]
Builder = Callable[..., nn.Module]
_B = TypeVar("_B", bound=Builder)

_TRIED_CHANNELS = 64  # of a module that is made to see whether it takes its options


class Attention(NamedTuple):
    """How to build an attention module, and its default placement in networks."""

    builder: Builder
    placement: Placement = "block"


_ATTENTION: dict[str, Attention] = {
    "bam": Attention(BAM, "stage"),
    "cbam": Attention(CBAM),
    "coord": Attention(CoordinateAttention),
    "eca": Attention(ECA),
    "ese": Attention(EffectiveSE),
    "gc": Attention(GlobalContext),
    "ge": Attention(GatherExcite),
    "mhsa": Attention(MHSA, "stage"),
    "none": Attention(nn.Identity),
    "sagan": Attention(SAGAN, "stage"),
    "sca": Attention(SCA),
    "scse": Attention(SCSE),
    "se": Attention(SqueezeExcite),
    "simam": Attention(SimAM),
    "srm": Attention(SRM),
    "triplet": Attention(TripletAttention),
}
_BUILT_IN = frozenset(_ATTENTION)


@overload
def register_attention(name: str, builder: _B, *, placement: Placement = "block") -> _B: ...
@overload
def register_attention(name: str, *, placement: Placement = "block") -> Callable[[_B], _B]: ...
def register_attention(name: str, builder: Any = None, *, placement: Placement = "block") -> Any:
    """Give your own attention module a name, as a function or as a decorator of the class.

    An attention module is a ``torch.nn.Module`` whose first argument is ``channels`` and whose ``forward``
    maps (N, C, *positions) to the same shape. Further arguments are its options, as in
    ``attention_options={"reduction": 8}``. Some are optional conventions: ``dims`` receives the number of
    position dimensions, 1 for (L,), 2 for (H, W) or 3 for (D, H, W); with ``gate="identity"`` the module
    starts as the identity where it is inserted into a trained network; ``implementation`` is ``"reference"``
    or ``"fused"``. A method ``gate_maps(x)`` lets ``explain`` draw gates: a dictionary of ``channel``
    (N, C, 1, …), ``spatial`` (N, 1, *positions), ``both`` (N, C, *positions), or ``attention``
    (N, 1, *positions) for self-attention, see ``received_attention``. A method
    ``count_macs(x)`` says how many multiply-accumulates to count, if not those that are executed.
    A module without a name can be given as its import path, ``my_package.MyAttention``.

    Args:
        name: A new name, other than those of ``list_attention()``, without dots and slashes.
        builder: The class, or a function that returns the module. Default: the decorated class or function.
        placement: Default placement in networks: ``block``, at the end of every residual branch, or
            ``stage``, after every stage but the last.

    Raises:
        UsageError: The name is empty, malformed or taken, the placement is unknown, or the first argument is
            not ``channels``.
    """
    if builder is None:
        return lambda decorated: register_attention(name, decorated, placement=placement)
    check_choice("placement", placement, get_args(Placement))
    known = _ATTENTION.get(name)
    if not name or {".", "/"} & {*name} or name in _BUILT_IN or (known and _differ(known.builder, builder)):
        raise UsageError(
            f"an attention cannot be called {name!r}: the name is empty, has a dot or a slash, or is taken. "
            f"Choose a name other than {', '.join(list_attention())}."
        )
    check_channels(name, builder)
    _ATTENTION[name] = Attention(builder, placement)
    return builder


def list_attention() -> list[str]:
    """Return the names of ``create_attention``, sorted; it also takes import paths of classes."""
    return sorted(_ATTENTION)


def describe_attention() -> dict[str, str]:
    """Return the first line of the documentation of every name of ``list_attention()``."""
    described = {}
    for name in list_attention():
        first, _, _ = inspect.cleandoc(_ATTENTION[name].builder.__doc__ or "").partition("\n")
        described[name] = "The input itself." if name == "none" else first
    return described


def default_placement(name: str) -> Placement:
    """Return where networks put this attention: on every residual branch, or after stages.

    Raises:
        UsageError: An unknown name.
    """
    return _find(name).placement


def option_names(name: str) -> frozenset[str]:
    """Return the names of the options of an attention: the arguments besides ``channels``.

    Raises:
        UsageError: An unknown name.
    """
    return frozenset(_options(name))


def option_types(name: str) -> dict[str, Any]:
    """Return the annotations of the options, as far as they can be evaluated.

    Raises:
        UsageError: An unknown name.
    """
    try:
        evaluated = inspect.signature(_find(name).builder, eval_str=True).parameters
    except NameError:  # a class that the user imports for type checkers alone
        return {}
    return {option: evaluated[option].annotation for option in _options(name)}


def option_defaults(name: str) -> dict[str, Any]:
    """Return the default values of the options that have one.

    Raises:
        UsageError: An unknown name.
    """
    options = sorted(_options(name).items())
    return {option: p.default for option, p in options if p.default is not p.empty}


def can_start_as_identity(name: str, options: Mapping[str, Any]) -> bool:
    """Return whether the attention has a gate ``identity`` and takes it beside these options."""
    if "gate" not in option_names(name):
        return False
    try:
        with torch.random.fork_rng(devices=[]):
            build_attention(name, _TRIED_CHANNELS, **{**options, "gate": "identity"})
    except Exception:  # a class of the user's may refuse these channels in its own way
        return False
    return True


def create_attention(name: str, channels: int, /, **options: Any) -> nn.Module:
    """Build an attention module, (N, C, *positions) to the same, by its name.

    Positions are (L,), (H, W) or (D, H, W). A module with an option ``dims`` takes one of them, by default
    (H, W). Its initial values depend on torch's generator, which advances by one number, however many the
    module draws.

    Args:
        name: One of ``list_attention()``, where ``none`` is the identity, or the import path of a class.
        channels: C, the number of channels of the input.
        options: Arguments of the module's class besides ``channels``.

    Raises:
        UsageError: An unknown name, an unknown option, or an invalid value.
    """
    import_class_path(name, "attention")
    return build_attention(name, channels, **options)


def build_attention(name: str, channels: int, /, **options: Any) -> nn.Module:
    """Build an attention module as ``create_attention`` does, but import nothing: names from files are safe.

    Raises:
        UsageError: As in ``create_attention``, or the class has not been imported.
    """
    check_options(name, options)
    if name == "none":
        return nn.Identity()
    with own_stream():
        module = _find(name).builder(channels, **options)
        if name not in _BUILT_IN:
            check_module(name, module, channels, {**option_defaults(name), **options}.get("dims"))
    return module


def _find(name: str) -> Attention:
    if name in _ATTENTION:
        return _ATTENTION[name]
    found = find_class(name)
    if found is None:
        hint = "Or the import path of a class, or a name that your module registers (--imports MODULE)."
        if is_class_path(name):
            hint = f"It is the path of a class that is not imported: --imports {name.rpartition('.')[0]}."
        raise UsageError(f"{unknown_name('attention', name, _ATTENTION)} {hint}")
    if not issubclass(found, nn.Module):
        raise UsageError(f"attention {name!r} is not a torch.nn.Module; give the import path of one.")
    check_channels(name, found)
    return Attention(found)


def _options(name: str) -> dict[str, inspect.Parameter]:
    """Return the named arguments of an attention besides ``channels``."""
    parameters = list(inspect.signature(_find(name).builder).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def check_options(name: str, options: Mapping[str, Any], beside: Collection[str] = ()) -> None:
    """Check the names of an attention's options.

    Args:
        name: As in ``build_attention``.
        options: Arguments of the module's class besides ``channels``.
        beside: Names that the caller takes itself, which an error lists, too.

    Raises:
        UsageError: An unknown name or option, or an option is missing.
    """
    known = _options(name)
    if name == "none" and options:
        raise UsageError(
            f"attention 'none' has no options, but was given {', '.join(sorted(options))}. "
            f"Remove them, or choose one of {', '.join(n for n in list_attention() if n != 'none')}."
        )
    parameters = inspect.signature(_find(name).builder).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option == CHANNELS or (option not in known and not takes_any):
            raise unknown_name(kind=f"{name} option", given=option, allowed={*known, *beside})
    missing = [o for o, p in known.items() if p.default is p.empty and o not in options]
    if missing:
        raise UsageError(f"{name} needs {' and '.join(missing)} in attention_options, as in {missing[0]}: …")


def _differ(one: Builder, other: Builder) -> bool:
    """Return whether these are two definitions, as opposed to one that was run again in a notebook."""
    return any(getattr(one, a, one) != getattr(other, a, other) for a in ("__module__", "__qualname__"))
