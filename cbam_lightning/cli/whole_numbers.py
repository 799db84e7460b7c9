"""Keeps the whole numbers of the command line whole, where a fraction would mean something else."""

from __future__ import annotations

from types import UnionType
from typing import Any, Union, get_origin

from jsonargparse._typehints import rebuild_typehint_args
from pytorch_lightning.cli import LightningArgumentParser


def read_whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Let options that take an ``int`` or a ``float`` read ``1`` as the int and ``1.0`` as the float.

    To Lightning's trainer, one is a number of batches and the other all of them. jsonargparse takes the first
    type that fits, and ``Optional[Union[int, float]]`` becomes ``Union[float, int, None]`` if Python has such
    a type in its cache (https://docs.python.org/3/library/typing.html#typing.Union).

    Args:
        parser: The parser of a sub-command, or of a class; changed in place.
    """
    for action in parser._actions:
        if hasattr(action, "_typehint"):
            action._typehint = _whole_numbers_first(action._typehint)


def _whole_numbers_first(hint: Any) -> Any:
    parts = getattr(hint, "__args__", None)
    if not isinstance(parts, tuple):
        return hint
    ordered = tuple(map(_whole_numbers_first, parts))
    if get_origin(hint) in (Union, UnionType) and {int, float} <= set(ordered):
        ordered = tuple(sorted(ordered, key=lambda kind: kind is not int))
    changed = any(new is not old for new, old in zip(ordered, parts, strict=True))
    return rebuild_typehint_args(hint, ordered) if changed else hint  # type: ignore[no-untyped-call]
