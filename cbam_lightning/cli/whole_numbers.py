"""Keeps the whole numbers of the command line whole, where a fraction would mean something else."""

from __future__ import annotations

from typing import Union, get_args, get_origin

from pytorch_lightning.cli import LightningArgumentParser


def read_whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Let options that take an ``int`` or a ``float`` read ``1`` as the int and ``1.0`` as the float.

    To Lightning's trainer, one is a number of batches and the other all of them. jsonargparse takes the first
    type that fits, and ``Optional[Union[int, float]]`` becomes ``Union[float, int, None]`` if Python has such
    a type in its cache (https://docs.python.org/3/library/typing.html#typing.Union).

    Args:
        parser: The parser of a sub-command; changed in place.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        kinds = get_args(hint)
        if get_origin(hint) is Union and {int, float} <= set(kinds):
            ordered = tuple(sorted(kinds, key=lambda kind: kind is not int))
            action._typehint = Union[ordered]  # type: ignore[attr-defined]  # noqa: UP007
