"""Checks of option values."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeGuard

from cbam_lightning.errors import UsageError, unknown_name

_LEAST_FLOAT32 = 2.0**-126  # of those with all their digits


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number; True and False, which Python counts among them, are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number: neither NaN nor beyond floats, nor True or False."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    number: Any = value
    return bool(abs(number) <= sys.float_info.max)  # math.isfinite raises where a whole number exceeds floats


def check_positive(option: str, value: int) -> None:
    """Raise a ``UsageError`` unless ``value`` is a whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise UsageError(f"{option} is {value!r}; give a whole number of at least 1.")


def check_above_zero(option: str, value: float) -> None:
    """Raise a ``UsageError`` unless ``value`` is a finite number above 0, also in float32."""
    if not is_finite(value) or value <= 0:
        raise UsageError(f"{option} is {value!r}; give a number above 0.")
    if value < _LEAST_FLOAT32:
        raise UsageError(f"{option} is {value!r}, which float32 cannot hold; give 1e-37 or more.")


def check_odd(option: str, value: int) -> None:
    """Raise a ``UsageError`` unless ``value`` is a positive odd number."""
    check_positive(option, value)
    if value % 2 == 0:
        raise UsageError(f"{option} is {value}, which has no centre; give an odd number, for example 3 or 7.")


def check_choice(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise a ``UsageError`` with the closest match unless ``value`` is among ``allowed``."""
    if value not in tuple(allowed):  # a tuple, since a value from YAML need not be hashable
        raise unknown_name(option, str(value), allowed)


def require_at_least(least: int, *, or_null: bool = False, **options: float | None) -> None:
    """Refuse values of options below a bound; ``None`` is always allowed.

    Args:
        least: Smallest allowed value.
        or_null: Whether the message shall offer null.
        **options: Values by the names of the options.

    Raises:
        UsageError: A value is too small.
    """
    allowed = f"{least} or more" + (", or null" if or_null else "")
    for name, value in options.items():
        require(value is None or (is_finite(value) and value >= least), name, value, allowed)


def require(condition: bool, name: str, given: object, allowed: str) -> None:
    """Raise unless a condition on a data option holds.

    Args:
        condition: Whether the value is allowed.
        name: The option's name, without ``--data.``.
        given: The option's value.
        allowed: The allowed values, in words.

    Raises:
        UsageError: ``condition`` is false.
    """
    if not condition:
        raise UsageError(f"{name} is {given}; allowed: {allowed}. Change it with --data.{name}.")
