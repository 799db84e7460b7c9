"""What the user did wrong, as an exception of its own.

The command turns a ``UsageError`` into one line and exit code 2, and an ``OSError`` (disk full, no
permission, a broken connection) into one line and exit code 1. A ``RunStopped`` says its own. Any other
exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in what the user gave: the message says what was given, what is allowed, and what to do."""


class RunStopped(Exception):  # noqa: N818 - a training that a signal ends has made no error
    """A training has ended early, and why is no defect of the program.

    Args:
        message: What happened and how to go on; empty on all processes but one.
        exit_code: Of the command.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """Build the error for a name that is in none of our lists.

    Args:
        kind: What the name stands for, for example ``"attention"``.
        given: The name as the user wrote it.
        allowed: Every name that would have been accepted.

    Returns:
        An error that names the closest match, if any, and every allowed name.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"unknown {kind} {given!r}.{hint} Allowed: {', '.join(names)}.")


def first_names(names: tuple[str, ...] | None) -> str:
    """Return " (cat, dog, fox, …)", or nothing where there are no names."""
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
