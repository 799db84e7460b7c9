"""Detect which attention a state dict holds: the name and options that give its keys and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch

from cbam_lightning.attention.registry import build_attention, list_attention, option_defaults, option_types
from cbam_lightning.errors import UsageError

# Options that never show in the keys of a network for images, see `register_attention`.
_UNSEEN = frozenset({"dims", "gate", "implementation"})

_Shapes = dict[str, tuple[int, ...]]


class Place(NamedTuple):
    """An attention module of a state dict.

    Attributes:
        name: Of the module in the network.
        channels: C, the number of channels of its input.
        shapes: Of its values.
    """

    name: str
    channels: int
    shapes: _Shapes


def detect_attention(
    places: Sequence[Place], name: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Find the attention whose modules have these keys and shapes, with as few changed options as possible.

    Options that leave no trace in a state dict keep their defaults.

    Args:
        places: All attention modules of a network.
        name: Name of the attention, if known.
        options: Known options.

    Returns:
        The name, and the options besides the known ones that differ from their defaults.

    Raises:
        UsageError: No attention has these keys, several have them, or no options give these shapes.
    """
    distinct = list({(p.channels, *p.shapes.items()): p for p in reversed(places)}.values())[::-1]
    names = [name] if name else [n for n in list_attention() if n != "none"]
    known = dict(options or {})
    # modules draw initial values, and trying them does not change what is drawn next
    with torch.random.fork_rng(devices=[]):
        variants = {n: _variants(n, distinct[0], known) for n in names}
        alike = [n for n, found in variants.items() if found]
        found = {n: o for n in alike if (o := _with_numbers(n, variants[n], distinct, known)) is not None}
    if not alike:
        keys = ", ".join(list(places[0].shapes)[:3])
        raise UsageError(f"{places[0].name} has a gate of another design ({keys}).")
    if not found:
        shown = "; ".join(f"{p.name}: {_shown(p)}" for p in distinct[:4])
        raise UsageError(f"no options of {' or '.join(alike)} give the shapes of the attention ({shown}).")
    fewest = min(map(len, found.values()))
    best = [n for n, chosen in found.items() if len(chosen) == fewest]
    if len(best) > 1:
        raise UsageError(f"the attention may be {' or '.join(best)}: their keys are the same; give its name.")
    return best[0], found[best[0]]


def _shown(place: Place) -> str:
    key, shape = max(place.shapes.items(), key=lambda item: len(item[1]))
    return f"{place.channels} channels, {key} {shape}"


def _variants(name: str, place: Place, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of options with which the module has the keys of ``place``, one for all shapes."""
    defaults, variants = option_defaults(name), dict[tuple[Any, ...], dict[str, Any]]()
    choices = {
        option: [choice for choice in _choices(kind) if choice != defaults.get(option)]
        for option, kind in option_types(name).items()
        if option not in known and option not in _UNSEEN
    }
    for chosen in _changes(choices, len(choices)):
        shapes = _shapes(name, place.channels, {**chosen, **known})
        if shapes is not None and shapes.keys() == place.shapes.keys():
            variants.setdefault(tuple(shapes.items()), chosen)
    return list(variants.values())


def _with_numbers(
    name: str, variants: Sequence[dict[str, Any]], places: Sequence[Place], known: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the first variant that has all shapes, with the numbers that it needs, or ``None``."""
    sizes = {(place.channels, size) for place in places for shape in place.shapes.values() for size in shape}
    numbers = sorted({n for channels, size in sizes if size for n in (size, channels // size) if n})
    defaults = option_defaults(name)
    values = {
        option: [number for number in numbers if number != defaults.get(option)]
        for option, kind in option_types(name).items()
        if kind in (int, int | None) and option not in known
    }
    for changed in _changes(values, 2):
        for variant in variants:
            options = {**variant, **changed, **known}
            if all(_shapes(name, place.channels, options) == place.shapes for place in places):
                return {**variant, **changed}
    return None


def _changes(values: Mapping[str, Sequence[Any]], most: int) -> Iterator[dict[str, Any]]:
    """Yield choices from these values: first for no option, then for every single one, up to ``most``."""
    for number in range(most + 1):
        for names in combinations(values, number):
            for chosen in product(*(values[name] for name in names)):
                yield dict(zip(names, chosen, strict=True))


def _choices(kind: Any) -> tuple[Any, ...]:
    return (True, False) if kind is bool else get_args(kind) if get_origin(kind) is Literal else ()


def _shapes(name: str, channels: int, options: Mapping[str, Any]) -> _Shapes | None:
    """Return the shapes of a module's values, or ``None`` if it cannot be built."""
    try:
        with torch.device("meta"):
            module = build_attention(name, channels, **options)
    except Exception:  # one that the user wrote may raise anything
        return None
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}
