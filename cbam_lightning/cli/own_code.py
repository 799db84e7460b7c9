"""The user's own modules, imported before anything else of a command line is read.

They are named by ``--imports``, by ``imports:`` in a configuration file, in the configuration of a run that
goes on or of a study, and by the environment variable ``CBAM_LIGHTNING_IMPORTS``.
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
    from cbam_lightning.studies.compare import FinishedRun

VARIABLE = "CBAM_LIGHTNING_IMPORTS"
_OPTION = "--imports"


def add_current_folder() -> None:
    """Let modules of the current folder be imported, as ``python -m`` does and a console script does not."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path:  # noqa: PTH109 - as Python writes it there
        sys.path.insert(0, os.getcwd())  # noqa: PTH109


def import_own_modules(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import all modules that a command line names.

    Args:
        args: The command line without the program's name.

    Returns:
        The command line without ``--imports``, and the modules, each once.

    Raises:
        UsageError: There is no such module, it raises, or its name is no name.
    """
    rest, typed = _without_imports(list(args))
    named = {VARIABLE: _names(VARIABLE, os.environ.get(VARIABLE, "")), _OPTION: typed}
    named |= {f"imports of {path}": _imports_of(path) for path in _configurations(rest)}
    add_current_folder()
    for option, names in named.items():
        import_modules(names, option)
    return rest, list(dict.fromkeys(name for names in named.values() for name in names))


def import_modules(names: Sequence[str], option: str) -> None:
    """Import modules.

    Args:
        names: Of the modules.
        option: Where they were named, for messages.

    Raises:
        UsageError: There is no such module, or it raises.
    """
    for name in names:
        import_module(name, option)


def import_own_networks(runs: Iterable[FinishedRun]) -> None:
    """Import what runs of this machine's folders need to build their networks once more.

    A run of W&B comes from elsewhere, and names classes only.

    Args:
        runs: To be compared.

    Raises:
        UsageError: There is no such module, or it raises.
    """
    for run in runs:
        if Path(run.source).is_dir():
            import_modules(run.settings.get("imports") or [], f"imports of {run.source}")
            for name in ("network", "attention"):
                import_class_path(run.network.get(name), f"the {name} of {run.source}")


def _without_imports(args: list[str]) -> tuple[list[str], list[str]]:
    """Take ``--imports VALUE`` and ``--imports=VALUE`` out of a command line."""
    rest, names = [], []
    words = iter(args)
    for word in words:
        option, given, value = word.partition("=")
        if option.rstrip("+") == _OPTION:
            names += _names(_OPTION, value if given else next(words, ""), required=True)
        else:
            rest.append(word)
    return rest, names


def _names(option: str, value: Any, required: bool = False) -> list[str]:
    """Return the names in a list, in the text of a YAML list, or in a text with commas."""
    if isinstance(value, str):
        value = [word.strip(" '\"") for word in value.strip().removeprefix("[").removesuffix("]").split(",")]
        value = [word for word in value if word]
    valid = isinstance(value, list) and all(_is_module_name(name) for name in value)
    if not valid or (required and not value):
        message = f"{option} is {value!r}; give names of modules, such as my_code or '[my_code, other]'."
        raise UsageError(message)
    return list(value)


def _is_module_name(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _configurations(args: list[str]) -> Iterator[Path]:
    """Yield the files whose ``imports`` count: of ``--config``, of a run that goes on, of a study."""
    for option, value in pairwise([*args, ""]):
        if option in ("-c", "--config"):
            yield Path(value)
        elif option.startswith("--config="):
            yield Path(option.partition("=")[2])
    command, positional = args[0] if args else "", [word for word in args[1:] if not word.startswith("-")]
    if command == "resume" and positional:
        yield Path(positional[0]) / "config.yaml"
    for file in positional if command in ("study", "compare") else []:
        if file.endswith((".yaml", ".yml")) and isinstance(base := _read(Path(file)).get("config"), str):
            yield Path(file).parent / base


def _imports_of(path: Path) -> list[str]:
    imports = _read(path).get("imports")
    return [] if imports is None else _names(f"imports of {path}", imports)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing if it cannot be read, which the command itself says better."""
    if not path.is_file() or broken_yaml([path]):
        return {}
    content = yaml.safe_load(path.read_text())
    return content if isinstance(content, dict) else {}
