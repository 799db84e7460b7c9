"""Imports the user's own modules before the rest of the command line is parsed.

They are named by ``--imports``, by ``imports:`` in a configuration file or in the configuration of a resumed
run or of a study, and by the environment variable ``CBAM_LIGHTNING_IMPORTS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cbam_lightning.cli.option_errors import broken_yaml
from cbam_lightning.errors import UsageError
from cbam_lightning.user_code.class_paths import import_class_path, import_module

if TYPE_CHECKING:
    from cbam_lightning.studies.compare.finished import FinishedRun

VARIABLE = "CBAM_LIGHTNING_IMPORTS"
CONFIG_OPTIONS = ("-c", "--config")
_OPTION = "--imports"


def add_current_folder() -> None:
    """Make modules in the current folder importable, as ``python -m`` does and a console script does not."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path:  # noqa: PTH109 - as Python itself does
        sys.path.insert(0, os.getcwd())  # noqa: PTH109


def import_own_modules(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import all modules that a command line names.

    Args:
        args: The command line without the program's name.

    Returns:
        The command line without ``--imports``, and the modules, each once.

    Raises:
        UsageError: A name is invalid, there is no such module, or importing it fails.
    """
    rest, from_options = _without_imports(list(args))
    names = {VARIABLE: _names(VARIABLE, os.environ.get(VARIABLE, "")), _OPTION: from_options}
    for path in _configurations(rest):
        origin = f"imports of {path}"
        names[origin] = _names(origin, _read(path).get("imports") or [])
    add_current_folder()
    for origin, modules in names.items():
        for module in modules:
            import_module(module, origin)
    return rest, list(dict.fromkeys(module for modules in names.values() for module in modules))


def import_own_networks(runs: Iterable[FinishedRun]) -> None:
    """Import what the networks of runs on this machine are built from.

    Nothing is imported for runs from W&B, which come from elsewhere.

    Args:
        runs: The runs to compare.

    Raises:
        UsageError: There is no such module, or importing it fails.
    """
    for run in runs:
        if Path(run.source).is_dir():
            for module in run.settings.get("imports") or []:
                import_module(module, f"imports of {run.source}")
            for name in ("network", "attention"):
                import_class_path(run.network.get(name), f"the {name} of {run.source}")


def _without_imports(args: list[str]) -> tuple[list[str], list[str]]:
    """Remove ``--imports VALUE`` and ``--imports=VALUE`` from a command line, and return their names."""
    rest, names = [], []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option.rstrip("+") == _OPTION:
            names += _names(_OPTION, value if equals else next(words, ""), required=True)
        else:
            rest.append(word)
    return rest, names


def _names(option: str, value: Any, required: bool = False) -> list[str]:
    """Return the names in a list, in the text of a YAML list, or in a comma-separated text."""
    if isinstance(value, str):
        value = [word.strip(" '\"") for word in value.strip().removeprefix("[").removesuffix("]").split(",")]
        value = [word for word in value if word]
    valid = isinstance(value, list) and all(_is_module_name(name) for name in value)
    if not valid or (required and not value):
        raise UsageError(f"{option} is {value!r}; give modules, such as my_code or '[my_code, other]'.")
    return list(value)


def _is_module_name(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _configurations(args: list[str]) -> Iterator[Path]:
    """Yield the configuration files: of ``--config``, of a run to resume, and of a study."""
    yield from (Path(value) for option, value in options_with_values(args) if option in CONFIG_OPTIONS)
    command, positional = args[0] if args else "", [word for word in args[1:] if not word.startswith("-")]
    if command == "resume" and positional:
        yield Path(positional[0]) / "config.yaml"
    for file in positional if command in ("study", "compare") else []:
        if file.endswith((".yaml", ".yml")) and isinstance(base := _read(Path(file)).get("config"), str):
            yield Path(file).parent / base


def options_with_values(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return every option with the word that follows it, empty for the last one."""
    for word, following in pairwise([*args, ""]):
        if word.startswith("-"):
            option, is_set, value = word.partition("=")
            yield option, value if is_set else following


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file; nothing if it cannot be read, which the command itself reports."""
    content = yaml.safe_load(path.read_text()) if path.is_file() and not broken_yaml([path]) else {}
    return content if isinstance(content, dict) else {}
