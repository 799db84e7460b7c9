"""Errors of data modules and networks in the words of a command that has other options than ``fit``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from cbam_lightning.errors import UsageError

# The last is of the weights of libraries, whose network only a model names.
_FOREIGN = re.compile(r"--(?:data|model|trainer)\.|also name the network")
_SEPARATORS = re.compile(r"(, or |, |; )")


@contextmanager
def in_own_options(names: Collection[str]) -> Iterator[None]:
    """Reword errors as ``reword`` does.

    Args:
        names: As for ``reword``.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(reword(str(error), names)) from error


def reword(text: str, names: Collection[str]) -> str:
    """Rewrite an error so that it advises only what the command can do.

    ``--data.size_px`` becomes ``--size-px`` if the command has such an option. Advice that needs another
    option of a data module, a model or a trainer is left out.

    Args:
        text: The error, whose clauses are set apart by commas, semicolons and full stops.
        names: The options of the command, with underscores.
    """

    def own(option: re.Match[str]) -> str:
        return f"--{option[1].replace('_', '-')}" if option[1] in names else option[0]

    renamed = re.sub(r"--data\.(\w+)", own, text)
    without_asides = re.sub(r" \([^()]*--(?:data|model|trainer)\.[^()]*\)", "", renamed)
    first, *others = re.split(r"(?<=\.) ", without_asides)
    kept = [_without_foreign(first) or _FOREIGN.sub("", first), *map(_without_foreign, others)]
    return " ".join(filter(None, kept))


def _without_foreign(sentence: str) -> str:
    """Return a sentence without the clauses that need another command's option; "" if the first does."""
    first, *rest = _SEPARATORS.split(sentence)
    if _FOREIGN.search(first):
        return ""
    pairs = zip(rest[::2], rest[1::2], strict=True)
    kept = first + "".join(mark + clause for mark, clause in pairs if not _FOREIGN.search(clause))
    return kept if kept.endswith(".") or not sentence.endswith(".") else f"{kept}."
