"""The option ``compile`` of a task: what ``torch.compile`` takes, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cbam_lightning.checks import check_choice
from cbam_lightning.errors import UsageError, closest

_OPTION = "--model.compile"
_KEYS = {
    "mode": "one of torch.compile's modes, such as 'reduce-overhead'",
    "fullgraph": "true or false",
    "dynamic": "true, false or null",
    "backend": "the name of a backend, such as 'inductor'",
    "options": "a mapping of options of the backend, in place of a mode",
}


def compile_arguments(given: Any) -> dict[str, Any] | None:
    """Return the keyword arguments of ``torch.compile``, or None if nothing is to be compiled.

    Args:
        given: False, True, or a mapping with any of the keys mode, fullgraph, dynamic, backend and options.

    Raises:
        UsageError: A key or a value that ``torch.compile`` does not take.
    """
    if isinstance(given, bool):
        return {} if given else None
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{_OPTION} is {given!r}; allowed: true, false, or a mapping with any of {', '.join(_KEYS)}, for "
            "example {mode: reduce-overhead}."
        )
    for key, value in given.items():
        check_choice(f"key of {_OPTION}", key, _KEYS)
        if not _fits(key, value):
            raise UsageError(f"{_OPTION}.{key} is {value!r}; allowed: {_KEYS[key]}.")
    backend = given.get("backend", "inductor")
    if isinstance(backend, str):
        check_choice(f"backend of {_OPTION}", backend, torch.compiler.list_backends(exclude_tags=()))
    if backend == "inductor":
        _check_options(given.get("options") or {})
    arguments = dict(given)
    _try(arguments)
    return arguments


def _fits(key: str, value: Any) -> bool:
    if key == "fullgraph":
        return isinstance(value, bool)
    if key == "backend":
        return isinstance(value, str) or callable(value)
    kinds = {"mode": str, "dynamic": bool, "options": Mapping}
    return value is None or isinstance(value, kinds[key])


def _check_options(options: Mapping[Any, Any]) -> None:
    """Refuse unknown options of the default backend; torch lists all of its several hundred."""
    import torch._inductor as inductor

    known = inductor.list_options()
    for name in map(str, options):
        if name.replace("-", "_") not in known:
            raise UsageError(
                f"unknown option {name!r} in {_OPTION}.options.{closest(name, known)} Allowed: the names "
                "that torch._inductor.list_options() returns."
            )


def _try(arguments: dict[str, Any]) -> None:
    """Let torch check the rest, which compiles nothing yet."""
    try:
        torch.compile(nn.Identity(), **arguments)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"{_OPTION} is {arguments!r}, which torch.compile does not take: {reason}."
        ) from error
