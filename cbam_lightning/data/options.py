"""Refusing option values that make no sense."""

from __future__ import annotations

from cbam_lightning.errors import UsageError


def require(condition: bool, name: str, given: object, allowed: str) -> None:
    """Refuse an option's value unless a condition holds.

    Args:
        condition: Whether the value is allowed.
        name: The option.
        given: Its value.
        allowed: The allowed values, in words.

    Raises:
        UsageError: The condition does not hold.
    """
    if not condition:
        message = f"{name} is {given}; allowed: {allowed}. Change it with --data.{name}."
        raise UsageError(message)
