"""Configurations as YAML whose words stay what they are, and as flat tables, to compare them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

Settings = dict[str, Any]

# Where a run is stored, and how it is tracked and saved: not what it computes.
_FILING = (
    "config",
    "run",
    "wandb",
    "save",
    "checkpoint.dirpath",
    "checkpoint.verbose",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
)


class _Dumper(yaml.SafeDumper):
    """Quotes text that jsonargparse would read as a number, and PyYAML would not, such as ``1e-3``."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def dump_yaml(config: Any) -> str:
    """Return a configuration as YAML that the command reads back as it is."""
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_word(text: str, read: Callable[[str], Any]) -> Any:
    """Return the value of a word of the command line; ``#1`` is a name, and not a comment without a value.

    Args:
        text: The word, or the content of a file.
        read: Reads YAML.
    """
    is_word = text.startswith("#") and "\n" not in text
    return text if is_word else read(text)


def flatten(config: Mapping[str, Any]) -> Settings:
    """Return every setting under its dotted name, as on the command line.

    ``{"data": {"class_path": "CIFAR10", "init_args": {"batch_size": 64}}}`` gives ``{"data": "CIFAR10",
    "data.batch_size": 64}``. An empty dictionary sets nothing.

    Args:
        config: The configuration of a sub-command, from YAML or JSON.
    """
    return {name: value for key, part in config.items() for name, value in _settings(str(key), part)}


def _settings(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _settings(key if name in ("class_path", "init_args") else f"{key}.{name}", inner)
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        for position, item in enumerate(value):
            yield from _settings(f"{key}.{position}", item)
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def is_below(key: str, names: Iterable[str]) -> bool:
    """Return whether a setting is one of the named ones, or part of one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def without_filing(settings: Settings) -> Settings:
    """Leave out where a run is stored, and how it is tracked and saved."""
    return {key: value for key, value in settings.items() if not is_below(key, _FILING)}


def same_value(written: Any, resolved: Any) -> bool:
    """Return whether a setting that a user wrote equals the one that a run resolved.

    A class may be named without its module, and a number or a truth value may be written as text.

    Args:
        written: From a YAML file or an option.
        resolved: From a run's ``config.yaml``.
    """
    if isinstance(written, str) and isinstance(resolved, str):
        return f".{resolved}".endswith(f".{written}")
    if isinstance(written, str) and isinstance(resolved, bool):
        return yaml.safe_load(written) is resolved
    if isinstance(written, str) and isinstance(resolved, (int, float)):
        with contextlib.suppress(ValueError):
            return float(written) == resolved
    return bool(written == resolved)
