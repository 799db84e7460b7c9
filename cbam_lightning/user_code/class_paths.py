"""The user's classes and modules by their import path, such as ``my_package.MyAttention``.

Importing runs code. Names that a person gives are imported; names in a checkpoint are only looked up among
the modules that are already imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cbam_lightning.errors import UsageError, closest
from cbam_lightning.user_code.tracebacks import user_line

_MAY_IMPORT = ContextVar("may_import", default=True)


@contextmanager
def importing_nothing() -> Iterator[None]:
    """Prevent ``import_class_path`` from importing, for names that come from a checkpoint."""
    token = _MAY_IMPORT.set(False)
    try:
        yield
    finally:
        _MAY_IMPORT.reset(token)


def is_class_path(name: object) -> bool:
    """Return whether a name has the form of an import path: two or more identifiers joined by dots."""
    parts = name.split(".") if isinstance(name, str) else []
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def import_module(name: str, option: str) -> None:
    """Import a module of the user, from the current folder or an installed one.

    Args:
        name: Name of the module.
        option: Where it was named, for messages.

    Raises:
        UsageError: There is no such module, or importing it fails.
    """
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, option, error) from error
        here = Path.cwd()
        hint = closest(name, [path.stem for path in here.glob("*.py")])
        raise UsageError(f"{option}: there is no module {name!r} in {here} or installed.{hint}") from error
    except (Exception, SystemExit) as error:
        raise _broken(name, option, error) from error


def import_class_path(path: str | None, option: str) -> None:
    """Import the module of a class path that the user gave.

    Nothing is imported for other names and None, nor within ``importing_nothing``.

    Args:
        path: Such as ``my_package.MyAttention``.
        option: Where it was given, for messages.

    Raises:
        UsageError: There is no such module, it has no such name, or importing either fails.
    """
    if path is None or not _MAY_IMPORT.get() or not is_class_path(path):
        return
    module, _, name = path.rpartition(".")
    import_module(module, option)
    try:
        found = hasattr(sys.modules[module], name)
    except Exception as error:  # of a module that imports its parts when they are asked for
        raise _broken(path, option, error) from error
    if not found:
        file = getattr(sys.modules[module], "__file__", None) or module
        raise UsageError(f"{option} is {path!r}, but there is no {name!r} in {file}.")


def find_class(path: object) -> type | None:
    """Return the class of an import path if its module was imported before; import nothing."""
    if not isinstance(path, str) or not is_class_path(path):
        return None
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _broken(name: str, option: str, error: BaseException) -> UsageError:
    place = user_line(error) or f"{type(error).__name__}: {error}"
    return UsageError(f"{option}: {name!r} cannot be imported. {place}")
