"""The classes that a parsed configuration names, before any of them is made."""

from __future__ import annotations

import inspect
import pydoc
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from cbam_lightning.errors import UsageError

if TYPE_CHECKING:  # the light commands import no Lightning
    from pytorch_lightning.cli import LightningArgumentParser

_PLAIN = (bool, int, float, str, type(None))


def named_classes(config: Any) -> Iterator[tuple[str, type]]:
    """Find the classes that a configuration names, each with its option, such as ``model.optimizer``."""
    for option, node in _nodes(config):
        found = _named(node)
        if isinstance(found, type):
            yield option, found


def refuse_functions(config: Any) -> None:
    """Refuse a configuration that names a function where a class is expected.

    jsonargparse calls whatever is named as an optimizer or a schedule, and a configuration, or the checkpoint
    that fills it in, may come from a stranger.

    Raises:
        UsageError: Names the option and the function.
    """
    for option, node in _nodes(config):
        if isinstance(node, (FunctionType, BuiltinFunctionType)):
            raise UsageError(f"--{option} is the function {node.__name__!r}; only classes can be named.")
        path = _items(node).get("class_path")
        if isinstance(path, str) and not isinstance(_named(node), type):
            raise UsageError(f"--{option} is {path!r}, which is not a class; only classes can be named.")


def leave_out_defaults(config: Any) -> None:
    """Remove functions, devices, enumerations and the like where they are the defaults of a class.

    jsonargparse fills in every default. Those that YAML cannot express could not be read again from the run's
    ``config.yaml``; without them, the class fills in its own.

    Args:
        config: Changed in place.
    """
    for _, node in _nodes(config):
        options, owner = _items(_items(node).get("init_args")), _named(node)
        defaults = class_options(owner) if isinstance(owner, type) else {}
        for name, value in list(options.items()):
            if not _is_plain(value) and name in defaults and _are_same(defaults[name], value):
                del options[name]


def read_config(parser: LightningArgumentParser, content: dict[str, Any]) -> Any:
    """Return the configuration that the content of a file gives.

    Args:
        parser: The parser of a sub-command.
        content: Changed in place.
    """
    config = parser.parse_object(content)
    leave_out_defaults(config)
    return config


def _nodes(config: Any, option: str = "") -> Iterator[tuple[str, Any]]:
    """Return every part of a configuration with its option; a part may change before its own are visited."""
    yield option, config
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from _nodes(value, option)
    for name, value in _items(config).items():
        inner = option if name in ("init_args", "dict_kwargs") else f"{option}.{name}".strip(".")
        yield from _nodes(value, inner)


def _items(node: Any) -> Any:
    """Return the live dictionary of a part of a configuration, an empty one if it has none."""
    if isinstance(node, Namespace):
        return vars(node)
    return node if isinstance(node, Mapping) else {}


def _named(node: Any) -> object:
    path = _items(node).get("class_path")
    return pydoc.locate(path) if isinstance(path, str) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (Mapping, Namespace)):
        return all(map(_is_plain, _items(value).values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN or isinstance(value, Path)


def _are_same(first: object, second: object) -> bool:
    """Compare two values of any kind; arrays and tensors have no truth value, and are compared as text."""
    try:
        return bool(first == second)
    except (RuntimeError, ValueError):
        return repr(first) == repr(second)


def class_options(owner: type) -> dict[str, Any]:
    """Return the defaults of a class's options, and of its bases' as long as it passes on ``**kwargs``."""
    defaults: dict[str, Any] = {}
    for base in owner.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            defaults = {p.name: p.default for p in named} | defaults
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return defaults
