"""What a configuration need not say: values that a class has by itself and YAML has no words for."""

from __future__ import annotations

import inspect
import pydoc
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def leave_out_defaults(config: Any) -> None:
    """Leave out functions, devices, enumerations and the like where they are the defaults of a class.

    jsonargparse fills in every default. Those that YAML cannot hold could not be read again from the run's
    ``config.yaml``; left out, the class fills them in by itself.

    Args:
        config: Parsed, nothing of it made yet; changed in place.
    """
    if isinstance(config, (list, tuple)):
        for value in config:
            leave_out_defaults(value)
    if not isinstance(config, (Mapping, Namespace)):
        return
    items = vars(config) if isinstance(config, Namespace) else config
    path, options = items.get("class_path"), items.get("init_args")
    if isinstance(path, str) and isinstance(options, (dict, Namespace)):
        _leave_out(options, pydoc.locate(path))
    for value in items.values():
        leave_out_defaults(value)


def _leave_out(options: Any, owner: Any) -> None:
    values = vars(options) if isinstance(options, Namespace) else options
    defaults = _defaults(owner) if isinstance(owner, type) else {}
    for name, value in list(values.items()):
        if not _is_plain(value) and name in defaults and defaults[name] == value:
            del values[name]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (Mapping, Namespace)):
        return all(map(_is_plain, (vars(value) if isinstance(value, Namespace) else value).values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN or isinstance(value, Path)


def _defaults(owner: type) -> dict[str, Any]:
    """Return the defaults of a class's options, those that it hands on to its bases included."""
    found: dict[str, Any] = {}
    for base in owner.__mro__:
        if "__init__" in vars(base) and base is not object:
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                found.setdefault(name, parameter.default)
    return found
