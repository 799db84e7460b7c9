"""Exceptions for mistakes of the user, and the wording that their messages share.

The command turns a ``UsageError`` into one line and exit code 2, and an ``OSError`` (disk full, permission
denied, connection lost) into one line and exit code 1. A ``RunStopped`` carries its own exit code. Any other
exception is a bug in this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in the user's input. The message says what was given, what is allowed, and what to do."""


class RunStopped(Exception):  # noqa: N818 - ending a run by a signal is not an error
    """A run ended early, for a reason other than a bug.

    Args:
        message: What happened and how to continue; empty on all processes but one.
        exit_code: The exit code of the command.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UsageError:
    """Build the error for a name that does not exist.

    Args:
        kind: What the name stands for, for example ``"attention"``.
        given: The name as the user wrote it.
        allowed: Every valid name.

    Returns:
        An error with the closest match, if any, and every valid name.
    """
    names = sorted(allowed)
    return UsageError(f"unknown {kind} {given!r}.{closest(given, names)} Allowed: {', '.join(names)}.")


def closest(given: str, names: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean 'X'?" with the name most similar to ``given``, or nothing if none is similar.

    Args:
        given: The name as the user wrote it.
        names: The names that exist.
        prefix: Is put before the name, for example ``--``.
    """
    close = difflib.get_close_matches(given, list(names), n=1)
    return f" Did you mean {prefix + close[0]!r}?" if close else ""


def first_names(names: tuple[str, ...] | None) -> str:
    """Return " (cat, dog, fox, …)", or an empty string if there are no names."""
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
